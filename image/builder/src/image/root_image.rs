//! The root file system as an erofs image, and the hash tree over it.

use std::{
    fs::{self, File},
    path::Path,
};

use protocol_types::Digest;

use super::error::{ImageError, file};
use crate::{
    identity,
    packages::digest_of,
    rootfs::{archive, tree::Tree},
    sandbox::Sandbox,
};

/// Names in the folder of parts.
pub(super) const ROOT: &str = "root.erofs";
/// The hash tree.
pub(super) const VERITY: &str = "root.verity";

/// Writes `tree` into the work folder as [`ROOT`].
pub(super) fn make_root(tree: &Tree, time: u64, tools: &Sandbox, work: &Path) -> Result<(), ImageError> {
    let path = work.join("root.tar");
    let tar = File::create(&path).map_err(file("write", &path))?;
    archive::write(tree, time, std::io::BufWriter::with_capacity(1 << 20, tar)).map_err(file("write", &path))?;
    let uuid = identity::of_content(&digest_of(&path).map_err(file("read", &path))?).to_string();
    // The compression that was measured to boot fast; inline tails save a block a file.
    let arguments = [
        "--quiet",
        "--tar=f",
        "-zlz4hc,12",
        "-C65536",
        "-Eztailpacking",
        "-T",
        &time.to_string(),
        "-U",
        &uuid,
        ROOT,
        "root.tar",
    ];
    tools
        .run(work, "mkfs.erofs", &arguments)
        .map_err(|source| ImageError::Tool { what: "root file system", source })?;
    fs::remove_file(&path).map_err(file("remove", &path))
}

/// Writes the hash tree over [`ROOT`] as [`VERITY`]; returns the root hash.
pub(super) fn make_verity(tools: &Sandbox, work: &Path) -> Result<Digest, ImageError> {
    let root = work.join(ROOT);
    // The tool wants whole blocks, and mkfs.erofs writes nothing else.
    let digest = digest_of(&root).map_err(file("read", &root))?;
    let uuid = identity::of_content(&digest).to_string();
    let salt = digest.hex();
    let arguments = [
        "format",
        ROOT,
        VERITY,
        "--salt",
        &salt,
        "--uuid",
        &uuid,
        "--hash",
        "sha256",
        "--data-block-size",
        "4096",
        "--hash-block-size",
        "4096",
    ];
    let said =
        tools.run(work, "veritysetup", &arguments).map_err(|source| ImageError::Tool { what: "hash tree", source })?;
    let said = String::from_utf8_lossy(&said).into_owned();
    root_hash(&said).ok_or(ImageError::Said { tool: "veritysetup", said })
}

fn root_hash(said: &str) -> Option<Digest> {
    Digest::from_hex(said.lines().find_map(|line| line.strip_prefix("Root hash:"))?.trim()).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_root_hash_is_found_in_what_the_tool_says() {
        let digest = Digest::of(b"tree");
        let said = format!("VERITY header information\nUUID: x\nSalt: 00\nRoot hash:      \t{}\n", digest.hex());
        assert_eq!(root_hash(&said), Some(digest));
        assert_eq!(root_hash("Root hash: none"), None);
    }
}
