//! Real containers by the real runtime, seen from inside.
#![expect(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test stops at the first surprise")]

mod support;

use std::time::Duration;

use protocol_types::socket::ApplicationState;
use support::{Device, image::Recipe};

#[test]
fn an_application_is_prepared_run_and_ready() {
    let script = "mkdir -p /tmp/www; echo hello > /tmp/www/ready; exec /bin/busybox httpd -f -p 8080 -h /tmp/www";
    let image = Recipe::script(script).ready(&["/bin/wget", "-q", "-O", "-", "http://127.0.0.1:8080/ready"]).build();
    let mut device = Device::running(&[]);
    device.offer(&image);
    device.prepare(&image).unwrap();
    device.run(&image);
    device.status("a started application", &image, |status| status.state == ApplicationState::Started);
    let status = device.ready(&image);
    assert_eq!((status.digest, status.restarts), (image.spec.digest, 0));
    assert!(device.stop() < Duration::from_secs(9));
}
