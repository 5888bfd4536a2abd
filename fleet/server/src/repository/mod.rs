//! The account's repository as devices see it: judged when somebody publishes, signed online, kept fresh. Never signs a release.

mod keys;
mod parts;
mod publish;
mod refresh;
mod weight;

pub(crate) use keys::public_keys;
pub(crate) use publish::publish;
pub(crate) use refresh::keep_fresh;
pub(crate) use weight::weight;
