//! The trusted applications of a board with a TEE: those of OP-TEE's development kit as they are, ours built and signed with it. The
//! kit's key is public, so the signature says which kit, and nothing about who signed.

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
    sync::Arc,
};

use protocol_types::Digest;

use super::error::{ImageError, file};
use crate::{
    board::Board,
    rootfs::tree::{Node, NodeKind, Tree},
    sandbox::Sandbox,
};

/// Where OP-TEE's supplicant looks for applications, in the root image and in the initrd.
const FOLDER: &str = "usr/lib/optee_armtz";
/// Names in the work folder.
const KIT: &str = "kit";
const SOURCE: &str = "trusted-application";
const OUT: &str = "trusted-application.out";
const STRIPPED: &str = ".stripped.elf";
const SIGNED: &str = "signed.ta";
/// The same bytes from the same input: the kit's usual scheme salts its signature.
const SCHEME: &str = "TEE_ALG_RSASSA_PKCS1_V1_5_SHA256";

/// The trusted applications of an image.
#[derive(Debug, Default)]
pub(super) struct TrustedApplications {
    root: Vec<(PathBuf, Node)>,
    /// Ours: what the initrd asks.
    initrd: Vec<(PathBuf, Node)>,
    /// Ours, by the names of their folders.
    own: BTreeMap<String, Digest>,
}

impl TrustedApplications {
    /// Takes and builds the applications that the board names; `kit` are the files of its package, `sources` the folder of ours.
    pub(super) fn collect(
        board: &Board,
        (kit, sources): (&Tree, &Path),
        compilers: impl FnOnce() -> Result<Sandbox, ImageError>,
        tools: &Sandbox,
        work: &Path,
    ) -> Result<Self, ImageError> {
        let Some(tee) = &board.tee else { return Ok(Self::default()) };
        let compilers = compilers()?;
        let mut all = Self::default();
        let place = |uuid: &str| Path::new(FOLDER).join(format!("{uuid}.ta"));
        let package: Arc<str> = tee.package.as_str().into();
        for uuid in &tee.from_kit {
            let bytes = kit.read(&tee.kit.join("ta").join(format!("{uuid}.ta")))?;
            all.root.push((place(uuid), Node::file(bytes, 0o644, &package)));
        }
        lay_out(kit, &tee.kit, &work.join(KIT))?;
        let builder: Arc<str> = "image-builder".into();
        for name in &tee.own {
            let (uuid, bytes) = build(&board.architecture.to_string(), &sources.join(name), (&compilers, tools), work)?;
            all.own.insert(name.clone(), Digest::of(&bytes));
            let node = Node::file(bytes, 0o644, &builder);
            all.root.push((place(&uuid), node.clone()));
            all.initrd.push((place(&uuid), node));
        }
        Ok(all)
    }

    /// Ours, by the names of their folders, with the digest of each signed file.
    pub(super) const fn own(&self) -> &BTreeMap<String, Digest> {
        &self.own
    }

    /// Adds all of them to the root file system.
    pub(super) fn add_to_root(&self, root: &mut Tree) {
        add(&self.root, root);
    }

    /// Adds ours to the initrd.
    pub(super) fn add_to_initrd(&self, initrd: &mut Tree) {
        add(&self.initrd, initrd);
        initrd.add_parents(&"image-builder".into());
    }
}

fn add(applications: &[(PathBuf, Node)], tree: &mut Tree) {
    for (path, node) in applications {
        tree.replace(path, node.clone());
    }
}

/// Builds and signs the application in the folder `source`; returns its UUID, which its Makefile knows, and the signed bytes.
fn build(
    architecture: &str,
    source: &Path,
    (compilers, tools): (&Sandbox, &Sandbox),
    work: &Path,
) -> Result<(String, Vec<u8>), ImageError> {
    let (copy, out) = (work.join(SOURCE), work.join(OUT));
    for folder in [&copy, &out] {
        fs::create_dir_all(folder).map_err(file("make", folder))?;
    }
    for entry in fs::read_dir(source).map_err(file("read", source))? {
        let from = entry.map_err(file("read", source))?.path();
        let to = copy.join(from.file_name().unwrap_or_default());
        fs::copy(&from, to).map_err(file("copy", &from))?;
    }
    let failed = |source| ImageError::Tool { what: "trusted application", source };
    let [kit, out_inside] = [KIT, OUT].map(|name| format!("/work/{name}"));
    let variables = [
        format!("TA_DEV_KIT_DIR={kit}"),
        format!("CROSS_COMPILE={architecture}-linux-gnu-"),
        format!("O={out_inside}"),
    ];
    let arguments: Vec<&str> =
        ["-s", "-C", SOURCE].into_iter().chain(variables.iter().map(String::as_str)).chain(["stripped"]).collect();
    compilers.run(work, "make", &arguments).map_err(failed)?;
    let uuid = uuid_in(&out)?;
    let (script, key) = (format!("{kit}/scripts/sign_encrypt.py"), format!("{kit}/keys/default_ta.pem"));
    let input = format!("{OUT}/{uuid}{STRIPPED}");
    let arguments =
        [&script, "sign-enc", "--uuid", &uuid, "--in", &input, "--out", SIGNED, "--key", &key, "--algo", SCHEME];
    tools.run(work, "python3", &arguments).map_err(failed)?;
    let signed = work.join(SIGNED);
    let bytes = fs::read(&signed).map_err(file("read", &signed))?;
    for folder in [&copy, &out] {
        fs::remove_dir_all(folder).map_err(file("remove", folder))?;
    }
    Ok((uuid, bytes))
}

/// The UUID by which the Makefile called what it made.
fn uuid_in(out: &Path) -> Result<String, ImageError> {
    for entry in fs::read_dir(out).map_err(file("read", out))? {
        let name = entry.map_err(file("read", out))?.file_name();
        if let Some(uuid) = name.to_str().and_then(|name| name.strip_suffix(STRIPPED)) {
            return Ok(uuid.to_owned());
        }
    }
    Err(ImageError::Said { tool: "make", said: format!("nothing that ends in {STRIPPED}") })
}

/// Writes the files below `from` in the tree into the folder `to`.
fn lay_out(tree: &Tree, from: &Path, to: &Path) -> Result<(), ImageError> {
    for (path, node) in tree.iter() {
        let Ok(inside) = path.strip_prefix(from) else { continue };
        let path = to.join(inside);
        let above = path.parent().unwrap_or(to);
        fs::create_dir_all(above).map_err(file("make", above))?;
        match &node.kind {
            NodeKind::Folder => {}
            NodeKind::File(bytes) => fs::write(&path, bytes).map_err(file("write", &path))?,
            NodeKind::Link(target) => std::os::unix::fs::symlink(target, &path).map_err(file("link", &path))?,
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_kit_of_the_machine_is_laid_out_links_as_links() {
        let owner: Arc<str> = "optee-os-dev".into();
        let mut tree = Tree::default();
        tree.replace(Path::new("usr/lib/kit/one/keys/default.pem"), Node::file(*b"key", 0o644, &owner));
        tree.replace(Path::new("usr/lib/kit/one/keys/ta.pem"), Node::link("default.pem", &owner));
        tree.replace(Path::new("usr/lib/kit/other/file"), Node::file(*b"x", 0o644, &owner));
        let folder = tempfile::tempdir().unwrap();
        lay_out(&tree, Path::new("usr/lib/kit/one"), folder.path()).unwrap();
        assert_eq!(fs::read(folder.path().join("keys/ta.pem")).unwrap(), b"key");
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
    }

    #[test]
    fn an_application_is_called_as_its_makefile_called_it() {
        let folder = tempfile::tempdir().unwrap();
        assert!(matches!(uuid_in(folder.path()), Err(ImageError::Said { tool: "make", .. })));
        fs::write(folder.path().join("56ba3c79.stripped.elf"), "").unwrap();
        assert_eq!(uuid_in(folder.path()).unwrap(), "56ba3c79");
    }
}
