//! The optional features of the recipe: an image with Wi-Fi, cellular and Bluetooth has their services, and nothing that listens.

use testbed::{
    Machine,
    images::{Order, Signer, image},
};

use super::sockets::has_no_port;
use crate::{
    os::{self, ANSWER, DEVELOPMENT, PRODUCTION, SHELLS, failed_units, programs, until_shell},
    os_tee::{BOARD, owners},
};

const RADIOS: &[&str] = &["bluetooth", "cellular", "wifi"];
/// A serial port at which nobody answers: a Bluetooth controller that was turned off.
const SILENT_PORT: [&str; 4] = ["-chardev", "null,id=controller", "-device", "pci-serial,chardev=controller"];

/// Asks again for a minute, until the answer has `word` in it; the last answer.
fn until_answers(machine: &mut Machine, question: &str, word: &str) -> String {
    let again = format!(
        "for try in {{1..60}}; do said=$({question}); [[ $said == *\"{word}\"* ]] && break; sleep 1; done; echo \"$said\""
    );
    machine.shell(&again, 5 * ANSWER).unwrap()
}

#[test]
fn os_an_image_with_radios_has_the_services_of_wifi_cellular_and_bluetooth() {
    let (build, folder) = (owners(DEVELOPMENT.having(RADIOS)), tempfile::tempdir().unwrap());
    let mut machine = os::machine(&build, folder.path());
    machine.arguments(&SILENT_PORT);
    machine.power_on().unwrap();
    until_shell(&mut machine);
    // What the kernel says of radios is not to stand between the answers.
    machine.shell("dmesg --console-level 1", ANSWER).unwrap();

    machine.shell("modprobe mac80211_hwsim radios=1", ANSWER).unwrap();
    // It is `unavailable` until NetworkManager has its plug-in and the supplicant answers.
    let wifi = until_answers(&mut machine, "nmcli -t -f DEVICE,TYPE,STATE device", "wifi:disconnected");
    assert!(wifi.contains("wlan0:wifi:disconnected"), "{wifi}");
    let rules = machine.shell("dmesg | grep regulatory.db", ANSWER).unwrap();
    assert_eq!(rules, "", "the kernel took the rules of the channels");

    let modems = until_answers(&mut machine, "mmcli --list-modems", "No modems");
    assert!(modems.contains("No modems were found"), "{modems}");

    let state = "systemctl show --property=SubState --value bluetooth.service";
    assert_eq!(machine.shell(state, ANSWER).unwrap(), "dead", "without a controller it does not run");
    machine.shell("modprobe hci_uart; btattach -B /dev/ttyS0 -P h4 &> /tmp/btattach & true", ANSWER).unwrap();
    let runs = until_answers(&mut machine, state, "running");
    assert_eq!(runs, "running", "{}", machine.shell("cat /tmp/btattach; ls /sys/class/bluetooth", ANSWER).unwrap());

    assert_eq!(failed_units(&mut machine, "mbl-factory.service"), "");
}

#[test]
fn os_a_production_image_with_radios_has_no_shell_and_no_port_that_others_could_reach() {
    let order = Order { with: Some("sockets"), ..PRODUCTION.having(RADIOS).on(BOARD) };
    let build = image(order, Signer::Owner).unwrap();
    let programs = programs(&build);
    for service in ["usr/sbin/wpa_supplicant", "usr/sbin/ModemManager", "usr/sbin/bluetoothd"] {
        assert!(programs.contains(service), "{service}");
    }
    for shell in SHELLS {
        assert!(!programs.iter().any(|path| path.rsplit('/').next() == Some(shell)), "{shell} is in the image");
    }
    has_no_port(&build);
}
