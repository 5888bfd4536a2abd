//! What a production image listens to: nothing. Its only difference here is a unit that says which sockets there are.

use std::path::Path;

use testbed::images::{Order, Signer, image};

use crate::{
    os::PRODUCTION,
    site::{FIRST, Site},
};

/// `st` of a TCP socket that takes connections, and of a UDP socket that takes datagrams from anybody (include/net/tcp_states.h).
const LISTENS: [(&str, &str); 2] = [("tcp", "0A"), ("udp", "07")];

/// The lines of the kernel's tables that stand for a socket which others may reach.
fn listening(said: &str) -> Vec<&str> {
    let takes_all = |line: &&str| {
        let Some((table, row)) = line.split_once(':').filter(|(table, _)| table.contains("/proc/net/")) else {
            return false;
        };
        let columns: Vec<&str> = row.split_whitespace().collect();
        let (Some(local), Some(state)) = (columns.get(1), columns.get(3)) else { return false };
        let is_loopback = local.starts_with("0100007F:") || local.starts_with("00000000000000000000000001000000:");
        !is_loopback && LISTENS.iter().any(|(kind, listens)| table.contains(kind) && state == listens)
    };
    said.lines().filter(takes_all).collect()
}

/// Asserts that nobody reaches a port of a registered board with the build in `build`, which has the feature `sockets`.
pub(super) fn has_no_port(build: &Path) {
    let mut site = Site::provisioned(build);
    site.machine.power_on().unwrap();
    site.until_runs(FIRST, "a");
    // Its connections to the service are in the list, or it was no list of this system. Earlier ones may be from before they were made.
    let said = site.until("a whole list of sockets with connections", || {
        let said = site.machine.said();
        let connection = said.lines().find(|line| line.contains("/proc/net/tcp:") && line.contains(" 01 "));
        let behind = connection.and_then(|line| said.split_once(line)).map(|(_, behind)| behind);
        Ok(behind.is_some_and(|behind| behind.contains("MemAvailable")).then_some(said))
    });
    assert_eq!(listening(&said), Vec::<&str>::new());
}

#[test]
fn os_a_production_image_that_is_registered_has_no_port_that_others_could_reach() {
    has_no_port(&image(Order { with: Some("sockets"), ..PRODUCTION }, Signer::Owner).unwrap());
}

#[test]
fn os_a_socket_that_others_could_reach_is_found_in_the_kernels_tables() {
    let said = "/proc/net/tcp:   0: 00000000:0016 00000000:0000 0A 00000000:00000000\n\
                /proc/net/tcp:   1: 0100007F:1F90 00000000:0000 0A 00000000:00000000\n\
                /proc/net/tcp:   2: 0F02000A:A2C4 6402000A:1635 01 00000000:00000000\n\
                /proc/net/udp6:  33: 00000000000000000000000000000000:14E9 00000000000000000000000000000000:0000 07 0:0\n";
    let found = listening(said);
    assert_eq!(found.len(), 2, "{found:?}");
    assert!(found[0].contains(":0016") && found[1].contains(":14E9"), "{found:?}");
}
