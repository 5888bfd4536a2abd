//! The client workflow of The Update Framework (specification 1.0, section 5) as a pure state machine: trusted state, wish and
//! time go in, one request after the other comes out, and at the end a verified release or a refusal.
//!
//! Never fetches, stores or looks at a clock. The caller performs each [`Step`], hands the answer to [`Check::answer`], and makes
//! [`Check::state`] durable before it acts on what it learnt.
//!
//! # Where this differs from the specification, and why
//!
//! * **Expired timestamp or snapshot is a [`Warning`].** They are signed by the service, which may be gone for years while what
//!   the account signed still holds. Freezing is bounded by the expiry of `targets` and `root` instead.
//! * **Only delegations that the release names are loaded**, so that a faulty one refuses only the releases that use it.
//! * **A stored version stays a floor while its keys stay.** The specification compares targets versions through the snapshot
//!   alone and forgets the snapshot when service keys rotate. Here the versions of `targets` and of each delegated role remain a
//!   floor until their own keys are rotated, so that a thief of the new service keys cannot bring back an old release either.
//!
//! # Time
//!
//! A device's clock may say 1970 (no battery) or 2099 (a broken one). Metadata is judged at
//! `max(now, not_before, seen)`: `not_before` is what the build or the factory knew, `seen` the latest time at which *every*
//! role, timestamp and snapshot included, was found unexpired.
//!
//! * 1970: judged at the latest time that was proven, so setting a clock back does not revive what had expired.
//! * 2099: targets have expired by then, so the answer is a refusal, and newer roots are still walked. `seen` does not move,
//!   since something had expired; once the clock is right, everything goes on as before. A clock that is wrong by less moves
//!   `seen` at most to the expiry of a timestamp, which the service makes short, so the harm heals within its lifetime.
//! * A thief of the service's keys could sign a timestamp that expires in 2099 and a time of 2099; `seen` is still bounded by the
//!   expiry of what is signed offline, and is forgotten when the officers rotate the stolen keys, as the stored timestamp is.

mod accept;
mod check;
mod expected;
mod fit;
mod listing;
mod state;
mod time;
mod verified;

pub(crate) use accept::{delegation, rotated, unexpired};
pub use check::{Check, Step, Wish};
pub use fit::Device;
pub(crate) use listing::{has_digest, listed, stands_in_its_role};
pub use state::{StateError, TrustedState};
pub use time::{Clock, Warning};
pub use verified::{VerifiedOs, VerifiedRelease};
