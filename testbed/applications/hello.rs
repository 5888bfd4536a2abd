//! The application of the demo on a board: `serve` answers every HTTP request on port 8080 with `GREETING`; `ready` succeeds once it does.
//! Built alone, without a crate, as static program for the board.

use std::{
    env,
    io::{self, Read, Write},
    net::{Ipv4Addr, TcpListener, TcpStream},
    process::ExitCode,
    time::Duration,
};

const PORT: u16 = 8080;
/// How long one request may take.
const LIMIT: Duration = Duration::from_secs(2);

fn main() -> ExitCode {
    let done = match env::args().nth(1).as_deref() {
        Some("serve") => serve(),
        Some("ready") => ready(),
        _ => Err(io::Error::other("say `serve` or `ready`")),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            println!("{error}");
            ExitCode::FAILURE
        }
    }
}

fn serve() -> io::Result<()> {
    let greeting = env::var("GREETING").unwrap_or_default();
    let listener = TcpListener::bind((Ipv4Addr::UNSPECIFIED, PORT))?;
    for stream in listener.incoming() {
        // A caller who hangs up is no reason to end.
        if let Err(error) = stream.and_then(|stream| answer(stream, &greeting)) {
            println!("{error}");
        }
    }
    Ok(())
}

fn answer(mut stream: TcpStream, greeting: &str) -> io::Result<()> {
    stream.set_read_timeout(Some(LIMIT))?;
    stream.set_write_timeout(Some(LIMIT))?;
    // What is asked for does not matter, but it must be read before the connection is closed.
    let mut request = [0; 4096];
    let _length = stream.read(&mut request)?;
    let length = greeting.len();
    write!(stream, "HTTP/1.0 200 OK\r\nContent-Type: text/plain\r\nContent-Length: {length}\r\n\r\n{greeting}")
}

fn ready() -> io::Result<()> {
    let mut stream = TcpStream::connect((Ipv4Addr::LOCALHOST, PORT))?;
    stream.set_read_timeout(Some(LIMIT))?;
    write!(stream, "GET / HTTP/1.0\r\n\r\n")?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    if answer.starts_with("HTTP/1.0 200 ") { Ok(()) } else { Err(io::Error::other(answer)) }
}
