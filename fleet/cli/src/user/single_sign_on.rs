//! Signing in with the identity provider of an account: a browser on this machine brings the one-time code back to a port of this program
//! (RFC 8252), a person at another machine carries it over.

use std::{
    net::Ipv4Addr,
    path::Path,
    process::{Command, Stdio},
    time::Duration,
};

use anyhow::Context as _;
use clap::Args;
use fleet_api::{BeginSingleSignOn, Client, CreatedToken, FinishSingleSignOn, TokenScope, code_challenge};
use protocol_types::AccountName;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    task::JoinSet,
    time::{Instant, sleep_until, timeout},
};
use url::Url;
use zeroize::Zeroizing;

use crate::{
    failure::{Exit, Failure},
    secret::{self, Secret},
    session::{Session, service_error},
};

/// Longest head of a browser's request that is read.
const HEAD_BYTES: usize = 8 * 1024;
/// How long a browser may take to send it.
const HEAD: Duration = Duration::from_secs(10);
/// Connections of browsers at a time; some open more than they use.
const CONNECTIONS: usize = 16;

#[derive(Debug, Args)]
pub(crate) struct SsoArgs {
    /// Sign in with the identity provider of the account
    #[arg(long)]
    pub(crate) sso: bool,
    /// There is no browser on this machine: show the address, and ask for the one-time code that the browser shows elsewhere
    #[arg(long, requires = "sso")]
    no_browser: bool,
    /// The program that opens an address
    #[arg(long, value_name = "PROGRAM", env = "MBL_BROWSER", default_value = "xdg-open", hide_env_values = true)]
    browser: String,
}

/// What a browser brings back.
#[derive(Debug, PartialEq, Eq)]
enum Brought {
    Code(String),
    Refused { code: String, detail: String },
}

/// Signs a person in; asks for the code where they carry it over, or reads it from `code_file`.
pub(crate) async fn sign_in(
    client: &Client,
    (account, scopes): (&AccountName, Option<Vec<TokenScope>>),
    (args, code_file): (&SsoArgs, Option<&Path>),
    session: &Session,
) -> anyhow::Result<CreatedToken> {
    let mut random = Zeroizing::new([0_u8; 32]);
    getrandom::fill(&mut *random).context("the system gives no random bytes")?;
    let verifier = Zeroizing::new(hex::encode(*random));
    let listener = if args.no_browser { None } else { Some(TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await) };
    let listener = listener.transpose().context("cannot listen on 127.0.0.1")?;
    let port = listener.as_ref().map(|listener| listener.local_addr().map(|address| address.port())).transpose();
    let wanted = BeginSingleSignOn {
        account: account.clone(),
        challenge: code_challenge(&verifier),
        port: port.context("cannot listen on 127.0.0.1")?,
        scopes,
    };
    let begun = client.begin_single_sign_on(&wanted).await.map_err(service_error)?;
    session.printer.ask(format_args!("Sign in at\n\n    {}\n\n", begun.address));
    let code = match listener {
        Some(listener) => {
            open(&args.browser, &begun.address, session);
            let left = Duration::from_secs(begun.expires.0.saturating_sub(session.now().0));
            wait(&listener, &begun.id, Instant::now() + left).await?
        }
        None => match code_file {
            Some(file) => secret::first_line(file)?,
            None => secret::ask("One-time code: ", "`--code-file`")?,
        },
    };
    let shown = FinishSingleSignOn { id: begun.id, verifier: verifier.to_string(), code: code.to_string() };
    client.finish_single_sign_on(&shown).await.map_err(service_error)
}

/// Opens the address in a browser; whoever has none that this program can open does it themselves.
fn open(browser: &str, address: &str, session: &Session) {
    let quiet = || Stdio::null();
    let started = Command::new(browser).arg(address).stdin(quiet()).stdout(quiet()).stderr(quiet()).spawn();
    if started.is_err() {
        session.printer.say(format_args!("`{browser}` cannot be started: open the address yourself"));
    }
}

/// Waits for the browser that brings the code of the sign-in `id`; whatever else knocks is turned away.
async fn wait(listener: &TcpListener, id: &str, until: Instant) -> anyhow::Result<Secret> {
    let mut visits = JoinSet::new();
    loop {
        let came = tokio::select! {
            came = listener.accept(), if visits.len() < CONNECTIONS => {
                let (stream, _) = came.context("cannot take the connection of a browser")?;
                let id = id.to_owned();
                visits.spawn(async move { timeout(HEAD, visit(stream, &id)).await.ok().flatten() });
                continue;
            }
            Some(came) = visits.join_next(), if !visits.is_empty() => came,
            () = sleep_until(until) => {
                let late = Failure::new(Exit::Failed, "nobody signed in within the time there was");
                return Err(late.hint("sign in again").into());
            }
        };
        match came.ok().flatten() {
            Some(Brought::Code(code)) => return Ok(Zeroizing::new(code)),
            Some(Brought::Refused { code, detail }) => {
                return Err(Failure::new(Exit::Refused, format!("{code}: {detail}")).into());
            }
            None => {}
        }
    }
}

/// Reads one request and answers it; nothing if it brings nothing.
async fn visit(mut stream: TcpStream, id: &str) -> Option<Brought> {
    let mut head = Vec::new();
    while !head.windows(4).any(|four| four == b"\r\n\r\n") {
        let mut piece = [0; 1024];
        let read = stream.read(&mut piece).await.ok().filter(|&read| read > 0)?;
        head.extend_from_slice(piece.get(..read)?);
        if head.len() > HEAD_BYTES {
            return None;
        }
    }
    let brought = brought(&head, id);
    let (status, text) = match &brought {
        Some(Brought::Code(_)) => ("200 OK", "You are signed in. Close this page and go on at the terminal."),
        Some(Brought::Refused { .. }) => ("200 OK", "You are not signed in. The terminal says why."),
        None => ("404 Not Found", "There is nothing here."),
    };
    let answer = format!(
        "HTTP/1.1 {status}\r\ncontent-type: text/plain; charset=utf-8\r\ncontent-length: {}\r\n\
         cache-control: no-store\r\nreferrer-policy: no-referrer\r\nconnection: close\r\n\r\n{text}",
        text.len()
    );
    // A browser that has left has brought the code all the same.
    drop(stream.write_all(answer.as_bytes()).await);
    drop(stream.shutdown().await);
    brought
}

/// What a request for the sign-in `id` brings, if it is one.
fn brought(head: &[u8], id: &str) -> Option<Brought> {
    let line = str::from_utf8(head).ok()?.lines().next()?;
    let path = line.strip_prefix("GET ")?.split(' ').next()?;
    let address = Url::parse("http://127.0.0.1").ok()?.join(path).ok()?;
    let value =
        |wanted: &str| address.query_pairs().find(|(name, _)| name == wanted).map(|(_, value)| value.into_owned());
    if address.path() != "/" || value("id")? != id {
        return None;
    }
    let plain = |text: String| text.chars().filter(|c| !c.is_control()).take(500).collect();
    match value("code") {
        Some(code) => Some(Brought::Code(code)),
        None => {
            Some(Brought::Refused { code: plain(value("error")?), detail: plain(value("detail").unwrap_or_default()) })
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(path: &str) -> Option<Brought> {
        brought(format!("GET {path} HTTP/1.1\r\nhost: 127.0.0.1\r\n\r\n").as_bytes(), "0f")
    }

    #[test]
    fn only_a_request_for_this_sign_in_brings_something() {
        assert_eq!(of("/?id=0f&code=abcd-efgh"), Some(Brought::Code("abcd-efgh".into())));
        let refused = Brought::Refused { code: "single_sign_on_refused".into(), detail: "no such user \u{e9}".into() };
        assert_eq!(of("/?id=0f&error=single_sign_on_refused&detail=no+such+user%0A+%C3%A9"), Some(refused));
        for nothing in
            ["/favicon.ico", "/?id=0e&code=abcd", "/?code=abcd", "/?id=0f", "/x?id=0f&code=abcd", "", "//x/?id=0f"]
        {
            assert_eq!(of(nothing), None, "{nothing}");
        }
        assert_eq!(brought(b"POST /?id=0f&code=a HTTP/1.1\r\n\r\n", "0f"), None);
        assert_eq!(brought(&[0xff; 40], "0f"), None);
    }

    #[tokio::test]
    async fn a_browser_that_only_connects_holds_up_nobody_and_the_wait_has_an_end() {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let address = listener.local_addr().unwrap();
        let silent = TcpStream::connect(address).await.unwrap();
        let visitor = tokio::spawn(async move {
            for path in ["/favicon.ico", "/?id=0f&code=abcd"] {
                let mut stream = TcpStream::connect(address).await.unwrap();
                stream.write_all(format!("GET {path} HTTP/1.1\r\n\r\n").as_bytes()).await.unwrap();
                let mut answer = String::new();
                stream.read_to_string(&mut answer).await.unwrap();
            }
        });
        let code = wait(&listener, "0f", Instant::now() + Duration::from_secs(30)).await.unwrap();
        assert_eq!(code.as_str(), "abcd");
        visitor.await.unwrap();
        drop(silent);
        let late = wait(&listener, "0f", Instant::now()).await.unwrap_err();
        assert!(late.to_string().contains("nobody signed in"), "{late:#}");
    }
}
