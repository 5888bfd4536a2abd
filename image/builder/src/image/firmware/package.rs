//! Firmware that the host supplies: its flash images, with our certificates enrolled.

use std::fs;

use super::{FIRMWARE_CODE, FIRMWARE_VARIABLES, Signing, enrol};
use crate::{
    board::PackagedFirmware,
    image::error::{ImageError, copy, file},
};

pub(super) fn sign(signing: &Signing<'_>, firmware: &PackagedFirmware) -> Result<(), ImageError> {
    let files = signing.packages.unpack(signing.cache, &[&firmware.package], |_| true)?;
    for (name, path) in [("code.fd", &firmware.code), ("variables.fd", &firmware.variables)] {
        let to = signing.work.join(name);
        fs::write(&to, files.read(path)?).map_err(file("write", &to))?;
    }
    enrol(signing, "variables.fd", "enrolled.fd")?;
    copy(&signing.work.join("code.fd"), &signing.out.join(FIRMWARE_CODE))?;
    copy(&signing.work.join("enrolled.fd"), &signing.out.join(FIRMWARE_VARIABLES))
}
