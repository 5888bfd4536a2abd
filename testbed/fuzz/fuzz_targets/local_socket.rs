//! Any bytes on a local socket are messages or the end of the connection; nobody holds more than one frame.
#![no_main]

use libfuzzer_sys::fuzz_target;
use protocol_types::socket::{
    AgentToApps, AgentToSystem, AgentToUpdater, AppsToAgent, AppsToUpdater, FrameReader, Greeting, SystemToAgent, UpdaterToAgent,
    UpdaterToApps, encode,
};
use serde::{Serialize, de::DeserializeOwned};

/// Reads a stream that arrives in pieces; what was read is written and read again as itself.
fn read<M: DeserializeOwned + Serialize + PartialEq + std::fmt::Debug>(data: &[u8]) {
    let mut reader = FrameReader::new();
    for piece in data.chunks(7) {
        reader.push(piece);
        loop {
            match reader.take::<M>() {
                Ok(Some(message)) => {
                    let mut again = FrameReader::new();
                    again.push(&encode(&message).expect("what was read can be written"));
                    assert_eq!(again.take::<M>().expect("what was written is read"), Some(message));
                }
                Ok(None) => break,
                Err(_) => return,
            }
        }
    }
}

fuzz_target!(|data: &[u8]| {
    read::<Greeting>(data);
    read::<AgentToUpdater>(data);
    read::<UpdaterToAgent>(data);
    read::<AppsToUpdater>(data);
    read::<UpdaterToApps>(data);
    read::<AppsToAgent>(data);
    read::<AgentToApps>(data);
    read::<AgentToSystem>(data);
    read::<SystemToAgent>(data);
});
