//! The keys of developers who may log into an image. Never lets anybody into a kind of image without SSH, and never takes a private key.

use std::{fs, path::Path};

use super::error::{ImageError, file};
use crate::rootfs::{
    Kind,
    tree::{Node, Tree},
};

/// The feature of a kind that brings SSH.
const FEATURE: &str = "ssh";
/// Where `sshd` of that feature looks; without this file it does not start.
const AUTHORIZED: &str = "etc/ssh/authorized_keys";

/// Lets whoever holds a key of the file at `path` log into the root file system `root`.
pub(super) fn allow(root: &mut Tree, kind: &Kind, path: &Path) -> Result<(), ImageError> {
    if !kind.features.iter().any(|feature| feature == FEATURE) {
        let rule = format!("it has no feature `{FEATURE}`, so nobody can log in with a key; leave out `--ssh-key`");
        return Err(ImageError::Kind { kind: kind.kind.as_str(), rule });
    }
    let text = fs::read_to_string(path).map_err(file("read", path))?;
    match check(&text) {
        Ok(()) => root.replace(Path::new(AUTHORIZED), Node::file(text.into_bytes(), 0o644, &"ssh key".into())),
        Err(rule) => return Err(ImageError::Broken { path: path.to_owned(), rule: rule.to_owned() }),
    }
    Ok(())
}

/// Whether every line is a public key as `ssh-keygen` writes it, a comment or nothing (sshd(8), "AUTHORIZED_KEYS FILE FORMAT").
fn check(text: &str) -> Result<(), &'static str> {
    let mut lines = text.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#')).peekable();
    if lines.peek().is_none() {
        return Err("it holds no public key");
    }
    for line in lines {
        let mut words = line.split_ascii_whitespace();
        let is_kind = |word: &str| ["ssh-", "ecdsa-", "sk-"].iter().any(|start| word.starts_with(start));
        let is_key = |word: &str| word.starts_with("AAAA");
        if !words.next().is_some_and(is_kind) || !words.next().is_some_and(is_key) {
            return Err("each line must be a public key, as the file that ends in `.pub` has it");
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rootfs::Description;

    const KEY: &str = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIGm1lZ2PzZq3cJ8nBhdmmLXV0r2KTWJ3mVwGZ8bH5JqO dev@desk\n";

    fn kind(text: &str) -> Kind {
        Kind::parse(text, Path::new("kind.toml")).unwrap()
    }

    #[test]
    fn a_developer_gets_into_a_development_image_and_into_no_other() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("id.pub");
        fs::write(&path, KEY).unwrap();
        let mut root = Tree::default();
        allow(&mut root, &kind(include_str!("../../../rootfs/development.toml")), &path).unwrap();
        assert_eq!(&*root.read(Path::new(AUTHORIZED)).unwrap(), KEY.as_bytes());
        for other in [include_str!("../../../rootfs/production.toml"), include_str!("../../../rootfs/evaluation.toml")]
        {
            let error = allow(&mut Tree::default(), &kind(other), &path).unwrap_err().to_string();
            assert!(error.contains("nobody can log in with a key"), "{error}");
        }
    }

    #[test]
    fn only_public_keys_are_taken() {
        assert_eq!(check(&format!("# mine\n\n{KEY}")), Ok(()));
        for text in [
            "",
            "# nobody\n",
            "-----BEGIN OPENSSH PRIVATE KEY-----\nb3BlbnNzaC1rZXk=\n",
            "ssh-ed25519\n",
            "command=\"x\" ssh-ed25519 AAAA",
        ] {
            assert!(check(text).is_err(), "{text}");
        }
    }
}
