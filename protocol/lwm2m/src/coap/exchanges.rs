//! Requests under way, found again by token. Never counts time; deadlines are numbers of the caller.

use super::Token;
use crate::{random::Random, time::Millis};

/// A bounded table of what waits for an answer. Small enough that a list beats a map.
#[derive(Debug)]
pub struct Exchanges<T> {
    waiting: Vec<(Token, Millis, T)>,
    most: usize,
    random: Random,
}

impl<T> Exchanges<T> {
    /// A table for up to `most` requests, with tokens grown from `seed`.
    pub const fn new(most: usize, seed: u64) -> Self {
        Self { waiting: Vec::new(), most, random: Random::new(seed) }
    }

    /// Remembers a request under a token that differs from all others under way and from those that are `in_use` elsewhere.
    /// Gives `what` back if as many requests as are allowed are under way.
    pub fn begin(&mut self, deadline: Millis, what: T, in_use: impl Fn(Token) -> bool) -> Result<Token, T> {
        let token = loop {
            let [a, b, c, d, ..] = self.random.next().to_be_bytes();
            let token = Token::from(u32::from_be_bytes([a, b, c, d]));
            if self.get(token).is_none() && !in_use(token) {
                break token;
            }
        };
        self.begin_with(token, deadline, what).map(|()| token)
    }

    /// Remembers a request under a token that the caller knows to be free.
    pub fn begin_with(&mut self, token: Token, deadline: Millis, what: T) -> Result<(), T> {
        if self.waiting.len() >= self.most {
            return Err(what);
        }
        self.waiting.push((token, deadline, what));
        Ok(())
    }

    /// What waits under this token.
    pub fn get(&self, token: Token) -> Option<&T> {
        self.waiting.iter().find(|(own, ..)| *own == token).map(|(_, _, what)| what)
    }

    /// What waits under this token, to change it.
    pub fn get_mut(&mut self, token: Token) -> Option<&mut T> {
        self.waiting.iter_mut().find(|(own, ..)| *own == token).map(|(_, _, what)| what)
    }

    /// Gives a request more time.
    pub fn extend(&mut self, token: Token, deadline: Millis) {
        if let Some(entry) = self.waiting.iter_mut().find(|(own, ..)| *own == token) {
            entry.1 = deadline;
        }
    }

    /// Forgets a request and gives back what waited.
    pub fn end(&mut self, token: Token) -> Option<T> {
        let at = self.waiting.iter().position(|(own, ..)| *own == token)?;
        Some(self.waiting.remove(at).2)
    }

    /// Forgets the requests for which this holds.
    pub fn forget(&mut self, is_it: impl Fn(&T) -> bool) {
        self.waiting.retain(|(_, _, what)| !is_it(what));
    }

    /// Forgets one request whose deadline has come.
    pub fn expire(&mut self, now: Millis) -> Option<(Token, T)> {
        let at = self.waiting.iter().position(|(_, deadline, _)| *deadline <= now)?;
        let (token, _, what) = self.waiting.remove(at);
        Some((token, what))
    }

    /// Forgets everything.
    pub fn drain(&mut self) -> impl Iterator<Item = T> {
        self.waiting.drain(..).map(|(_, _, what)| what)
    }

    /// The earliest deadline.
    pub fn next_deadline(&self) -> Option<Millis> {
        self.waiting.iter().map(|(_, deadline, _)| *deadline).min()
    }

    /// Everything that waits.
    pub fn iter(&self) -> impl Iterator<Item = (Token, &T)> {
        self.waiting.iter().map(|(token, _, what)| (*token, what))
    }

    /// How many requests are under way.
    pub fn len(&self) -> usize {
        self.waiting.len()
    }

    /// Whether nothing waits.
    pub fn is_empty(&self) -> bool {
        self.waiting.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_full_table_refuses_and_an_expired_request_makes_room() {
        let mut table = Exchanges::new(2, 1);
        let first = table.begin(Millis(10), "first", |_| false).unwrap();
        let second = table.begin(Millis(20), "second", |_| false).unwrap();
        assert_ne!(first, second);
        assert_eq!(table.begin(Millis(30), "third", |_| false), Err("third"));
        assert_eq!((table.next_deadline(), table.expire(Millis(9))), (Some(Millis(10)), None));
        assert_eq!(table.expire(Millis(10)), Some((first, "first")));
        assert_eq!((table.end(first), table.end(second)), (None, Some("second")));
        assert!(table.is_empty());
    }
}
