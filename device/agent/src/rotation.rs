//! How far the wish for a new operational key is: a job has it, the session fulfils it. What was given up does not happen later, and what
//! has happened is not given up. Never makes a key.

use tokio::sync::watch;

/// The newest wish, shared by who has it and who fulfils it.
#[derive(Debug)]
pub struct Rotation(watch::Sender<Wish>);

/// A wish for a new key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Wish {
    number: u64,
    stage: Stage,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Stage {
    /// Nothing has been done that lasts.
    Wanted,
    /// The certificate for the new key is kept; how the wish ends shows with the next registration.
    Kept,
    /// It has ended; why it failed, if it did.
    Ended(Result<(), String>),
}

impl Wish {
    /// Its number, as long as nothing has been done that lasts.
    pub const fn wanted(&self) -> Option<u64> {
        match self.stage {
            Stage::Wanted => Some(self.number),
            Stage::Kept | Stage::Ended(_) => None,
        }
    }
}

impl Default for Rotation {
    fn default() -> Self {
        Self(watch::Sender::new(Wish { number: 0, stage: Stage::Ended(Ok(())) }))
    }
}

impl Rotation {
    /// The wishes as they come and get on.
    pub fn wishes(&self) -> watch::Receiver<Wish> {
        self.0.subscribe()
    }

    /// A new key is wanted.
    pub fn want(&self) {
        self.0.send_modify(|wish| *wish = Wish { number: wish.number + 1, stage: Stage::Wanted });
    }

    /// The certificate for this wish may be kept; false if nobody wants it any more.
    pub fn keep(&self, number: u64) -> bool {
        self.advance(|wish| wish.wanted() == Some(number), Stage::Kept)
    }

    /// This wish has failed.
    pub fn fail(&self, number: u64, why: String) {
        let is_open = |wish: &Wish| wish.number == number && !matches!(wish.stage, Stage::Ended(_));
        self.advance(is_open, Stage::Ended(Err(why)));
    }

    /// The device has come back to the service: with the certificate that was kept, or why it did not.
    pub fn settle(&self, came: Result<(), String>) {
        self.advance(|wish| wish.stage == Stage::Kept, Stage::Ended(came));
    }

    /// Gives the newest wish up, unless the certificate is kept.
    pub fn give_up(&self, why: &str) {
        self.advance(|wish| wish.wanted().is_some(), Stage::Ended(Err(why.to_owned())));
    }

    /// How the newest wish has ended, once it has.
    pub async fn ended(&self) -> Result<(), String> {
        let mut wishes = self.wishes();
        loop {
            if let Stage::Ended(came) = &wishes.borrow_and_update().stage {
                return came.clone();
            }
            if wishes.changed().await.is_err() {
                return Err("the session has ended".to_owned());
            }
        }
    }

    /// Moves the newest wish on if it stands so; whether it did.
    fn advance(&self, stands_so: impl FnOnce(&Wish) -> bool, to: Stage) -> bool {
        self.0.send_if_modified(|wish| {
            let moves = stands_so(wish);
            if moves {
                wish.stage = to;
            }
            moves
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The number of a new wish.
    fn wanted(rotation: &Rotation) -> u64 {
        rotation.want();
        rotation.wishes().borrow().wanted().unwrap()
    }

    #[tokio::test]
    async fn what_was_given_up_is_not_kept_and_what_is_kept_is_not_given_up() {
        let rotation = Rotation::default();
        let late = wanted(&rotation);
        rotation.give_up("too late");
        assert_eq!(rotation.ended().await, Err("too late".to_owned()));
        assert!(rotation.wishes().borrow().wanted().is_none() && !rotation.keep(late));
        let next = wanted(&rotation);
        assert!(!rotation.keep(late), "the certificate is for an older wish");
        rotation.fail(late, "no answer".to_owned());
        assert_eq!(rotation.wishes().borrow().wanted(), Some(next), "an older wish has failed");
        assert!(rotation.keep(next));
        rotation.give_up("too late");
        rotation.settle(Ok(()));
        assert_eq!(rotation.ended().await, Ok(()));
    }

    #[tokio::test]
    async fn a_registration_settles_only_what_was_kept() {
        let rotation = Rotation::default();
        let number = wanted(&rotation);
        rotation.settle(Ok(()));
        assert_eq!(rotation.wishes().borrow().wanted(), Some(number));
        assert!(rotation.keep(number));
        rotation.settle(Err("enrolled anew".to_owned()));
        rotation.settle(Ok(()));
        assert_eq!(rotation.ended().await, Err("enrolled anew".to_owned()));
        let number = wanted(&rotation);
        assert!(rotation.keep(number));
        rotation.fail(number, "the disk is full".to_owned());
        assert_eq!(rotation.ended().await, Err("the disk is full".to_owned()));
    }
}
