//! Bodies in blocks, both ways and in both roles (RFC 7959): who cuts, who assembles, and when to give up.
//! Never sends; each type takes what came and says what is next.

use super::{Block, BlockSize, Code, Message, OptionNumber};
use crate::time::Millis;

/// The part of `body` that `asked` stands for, and the block option that goes with it. `room` bounds a BERT part. `None` if the
/// body ends before it.
pub fn slice(body: &[u8], asked: Block, room: usize) -> Option<(Block, &[u8])> {
    let unit = asked.size.unit();
    let most = if asked.size == BlockSize::BERT { (room / unit).max(1) * unit } else { unit };
    let rest = body.get(asked.offset()..).filter(|rest| !rest.is_empty() || asked.num == 0)?;
    let part = &rest[..rest.len().min(most)];
    Some((Block { more: part.len() < rest.len(), ..asked }, part))
}

/// The largest block size whose message fits: `room` is what the peer takes less the header and options.
pub fn size_for(room: usize, bert: bool) -> Option<BlockSize> {
    if bert && room >= BlockSize::BERT.unit() {
        return Some(BlockSize::BERT);
    }
    (0..=6).rev().filter_map(BlockSize::new).find(|size| size.unit() <= room)
}

/// A body that leaves in Block1 requests.
#[derive(Clone, Debug)]
pub struct Upload {
    body: Vec<u8>,
    at: Block,
    room: usize,
}

/// What a response means for an [`Upload`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Uploaded {
    /// Send the block that [`Upload::part`] now gives.
    Next,
    /// This is the response to the whole request, or a refusal of it.
    Done,
    /// The response does not belong to the block that was sent.
    Broken,
}

impl Upload {
    /// Starts at the front of `body`.
    pub const fn new(body: Vec<u8>, size: BlockSize, room: usize) -> Self {
        Self { body, at: Block { num: 0, more: false, size }, room }
    }

    /// The block to send now, and its part of the body.
    pub fn part(&self) -> (Block, &[u8]) {
        slice(&self.body, self.at, self.room).unwrap_or((self.at, &[]))
    }

    /// The length of the whole body in bytes, for Size1.
    pub fn len(&self) -> usize {
        self.body.len()
    }

    /// Whether the body is empty.
    pub fn is_empty(&self) -> bool {
        self.body.is_empty()
    }

    /// Takes the response to the block that was sent last.
    pub fn on(&mut self, response: &Message) -> Uploaded {
        let (sent, part) = self.part();
        let answered = Block::of(&response.options, OptionNumber::BLOCK1);
        let smaller = answered.map(|block| block.size).filter(|size| *size < self.at.size);
        if response.code == Code::REQUEST_ENTITY_TOO_LARGE && sent.num == 0 {
            // A hint to start again with smaller blocks (section 2.9.3).
            return smaller.map_or(Uploaded::Done, |size| {
                self.at.size = size;
                Uploaded::Next
            });
        }
        if !sent.more {
            // 2.31 asks for more, but there is none.
            return if response.code == Code::CONTINUE { Uploaded::Broken } else { Uploaded::Done };
        }
        if !response.code.is_success() {
            return Uploaded::Done;
        }
        if answered.is_none_or(|block| block.num != sent.num) {
            return Uploaded::Broken;
        }
        let offset = sent.offset() + part.len();
        self.at.size = smaller.unwrap_or(self.at.size);
        match u32::try_from(offset / self.at.size.unit()) {
            Ok(num) if num <= Block::MAX_NUM && offset.is_multiple_of(self.at.size.unit()) => self.at.num = num,
            _ => return Uploaded::Broken,
        }
        Uploaded::Next
    }
}

/// A body that arrives in Block2 responses.
#[derive(Clone, Debug)]
pub struct Download {
    body: Vec<u8>,
    etag: Option<Vec<u8>>,
    limit: usize,
}

/// What a block means for a [`Download`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Downloaded {
    /// Ask for this block.
    Next(Block),
    /// The whole body.
    Done(Vec<u8>),
    /// The body is larger than the limit.
    TooLarge,
    /// The block is not the next one, has the wrong length, or belongs to another version of the body.
    Broken,
}

impl Download {
    /// Nothing yet; refuses bodies of more than `limit` bytes.
    pub const fn new(limit: usize) -> Self {
        Self { body: Vec::new(), etag: None, limit }
    }

    /// Takes a response that has the Block2 option.
    pub fn on(&mut self, block: Block, response: &Message) -> Downloaded {
        let etag = response.options.first(OptionNumber::ETAG).map(<[u8]>::to_vec);
        if block.offset() != self.body.len() || !block.fits(response.payload.len()) {
            return Downloaded::Broken;
        }
        if self.body.is_empty() {
            self.etag = etag;
        } else if self.etag != etag {
            return Downloaded::Broken;
        }
        if self.body.len() + response.payload.len() > self.limit {
            return Downloaded::TooLarge;
        }
        self.body.extend_from_slice(&response.payload);
        if !block.more {
            return Downloaded::Done(std::mem::take(&mut self.body));
        }
        match u32::try_from(self.body.len() / block.size.unit()) {
            Ok(num) if num <= Block::MAX_NUM => Downloaded::Next(Block { num, more: false, size: block.size }),
            _ => Downloaded::TooLarge,
        }
    }
}

/// What makes two messages parts of the same transfer: method and every option that says what is asked for, and of whom.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Key(Vec<u8>);

impl Key {
    /// The key of a request.
    pub fn of(request: &Message) -> Self {
        let mut key = vec![request.code.byte()];
        let about_the_way = [OptionNumber::OBSERVE, OptionNumber::BLOCK1, OptionNumber::BLOCK2];
        for (number, value) in request.options.iter() {
            if !about_the_way.contains(&number) && !number.is_no_cache_key() {
                key.extend_from_slice(&number.0.to_be_bytes());
                key.extend_from_slice(&value.len().to_be_bytes());
                key.extend_from_slice(value);
            }
        }
        Self(key)
    }
}

/// The bodies that one peer sends in Block1 requests: one a resource, few at once.
#[derive(Debug)]
pub struct Uploads {
    open: Vec<(Key, Millis, Vec<u8>)>,
    most: usize,
    limit: usize,
}

/// What a Block1 request means for [`Uploads`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Assembled {
    /// Answer 2.31 and wait for more.
    Continue,
    /// The whole body: act on it.
    Whole(Vec<u8>),
    /// Answer with this code, 4.00, 4.08 or 4.13; what was there of the body is dropped.
    Refused(Code),
}

impl Uploads {
    /// Room for `most` bodies of `limit` bytes.
    pub const fn new(most: usize, limit: usize) -> Self {
        Self { open: Vec::new(), most, limit }
    }

    /// Takes one block. A body whose next block has not come by `deadline` may be dropped.
    pub fn on(&mut self, key: Key, block: Block, payload: &[u8], deadline: Millis) -> Assembled {
        let at = self.open.iter().position(|(open, ..)| *open == key);
        let mut body = at.map(|at| self.open.remove(at).2).unwrap_or_default();
        if block.num == 0 {
            body.clear();
        }
        if !block.fits(payload.len()) {
            return Assembled::Refused(Code::BAD_REQUEST);
        }
        if block.offset() != body.len() {
            return Assembled::Refused(Code::REQUEST_ENTITY_INCOMPLETE);
        }
        if body.len() + payload.len() > self.limit {
            return Assembled::Refused(Code::REQUEST_ENTITY_TOO_LARGE);
        }
        body.extend_from_slice(payload);
        if !block.more {
            return Assembled::Whole(body);
        }
        if self.open.len() >= self.most {
            // The oldest gives way; its sender hears 4.08 with its next block.
            self.open.remove(0);
        }
        self.open.push((key, deadline, body));
        Assembled::Continue
    }

    /// Drops what has waited too long.
    pub fn expire(&mut self, now: Millis) {
        self.open.retain(|(_, deadline, _)| *deadline > now);
    }

    /// The earliest deadline.
    pub fn next_deadline(&self) -> Option<Millis> {
        self.open.iter().map(|(_, deadline, _)| *deadline).min()
    }
}

/// Responses that one peer fetches in Block2 requests: one a resource, few at once.
#[derive(Debug)]
pub struct Downloads {
    kept: Vec<(Key, Millis, Message)>,
    most: usize,
}

impl Downloads {
    /// Room for `most` responses.
    pub const fn new(most: usize) -> Self {
        Self { kept: Vec::new(), most }
    }

    /// Keeps a whole response for later blocks.
    pub fn keep(&mut self, key: Key, response: Message, deadline: Millis) {
        self.kept.retain(|(kept, ..)| *kept != key);
        if self.kept.len() >= self.most {
            self.kept.remove(0);
        }
        self.kept.push((key, deadline, response));
    }

    /// The response that a later block belongs to.
    pub fn get(&self, key: &Key) -> Option<&Message> {
        self.kept.iter().find(|(kept, ..)| kept == key).map(|(.., response)| response)
    }

    /// Drops what has been kept too long.
    pub fn expire(&mut self, now: Millis) {
        self.kept.retain(|(_, deadline, _)| *deadline > now);
    }

    /// The earliest deadline.
    pub fn next_deadline(&self) -> Option<Millis> {
        self.kept.iter().map(|(_, deadline, _)| *deadline).min()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn key(path: &str) -> Key {
        Key::of(&Message::new(Code::PUT).path(path))
    }

    fn size(exponent: u8) -> BlockSize {
        BlockSize::new(exponent).unwrap()
    }

    #[test]
    fn a_gap_is_answered_with_4_08_and_an_overflow_with_4_13() {
        let mut uploads = Uploads::new(1, 40);
        let block = |num, more| Block { num, more, size: BlockSize::MIN };
        assert_eq!(uploads.on(key("a"), block(0, true), &[1; 16], Millis(9)), Assembled::Continue);
        let refused = uploads.on(key("a"), block(2, true), &[1; 16], Millis(9));
        assert_eq!(refused, Assembled::Refused(Code::REQUEST_ENTITY_INCOMPLETE));
        for (num, answer) in [
            (0, Assembled::Continue),
            (1, Assembled::Continue),
            (2, Assembled::Refused(Code::REQUEST_ENTITY_TOO_LARGE)),
        ] {
            assert_eq!(uploads.on(key("a"), block(num, true), &[1; 16], Millis(9)), answer);
        }
    }

    #[test]
    fn one_transfer_more_than_allowed_drops_the_oldest() {
        let mut uploads = Uploads::new(1, 100);
        let block = |num, more| Block { num, more, size: BlockSize::MIN };
        assert_eq!(uploads.on(key("a"), block(0, true), &[1; 16], Millis(9)), Assembled::Continue);
        assert_eq!(uploads.on(key("b"), block(0, true), &[2; 16], Millis(9)), Assembled::Continue);
        assert_eq!(
            uploads.on(key("b"), block(1, false), &[3], Millis(9)),
            Assembled::Whole([&[2; 16][..], &[3]].concat())
        );
        let late = uploads.on(key("a"), block(1, false), &[1], Millis(9));
        assert_eq!(late, Assembled::Refused(Code::REQUEST_ENTITY_INCOMPLETE));
    }

    #[test]
    fn a_body_that_changes_between_two_blocks_is_not_mixed() {
        let mut download = Download::new(100);
        let part = |etag| {
            let mut message = Message::refusal(Code::CONTENT, &"x".repeat(16));
            message.options.push(OptionNumber::ETAG, etag);
            message
        };
        let block = |num| Block { num, more: true, size: BlockSize::MIN };
        assert!(matches!(download.on(block(0), &part(b"1")), Downloaded::Next(Block { num: 1, .. })));
        assert_eq!(download.on(block(1), &part(b"2")), Downloaded::Broken);
    }

    proptest! {
        #[test]
        fn a_body_arrives_as_it_left_whatever_size_the_receiver_insists_on(
            body in proptest::collection::vec(any::<u8>(), 0..9000), first in 0_u8..=7, then in 0_u8..=7, room in 1024_usize..5000,
        ) {
            let mut upload = Upload::new(body.clone(), size(first), room);
            let mut uploads = Uploads::new(1, 10_000);
            for _ in 0..1000 {
                let (block, part) = upload.part();
                match uploads.on(key("a"), block, part, Millis(1)) {
                    Assembled::Whole(whole) => {
                        prop_assert_eq!(whole, body);
                        return Ok(());
                    }
                    Assembled::Continue => {
                        let smaller = Block { size: block.size.min(size(then)), ..block };
                        let answer = Message::new(Code::CONTINUE).with_uint(OptionNumber::BLOCK1, smaller.to_uint());
                        prop_assert_eq!(upload.on(&answer), Uploaded::Next);
                    }
                    Assembled::Refused(code) => prop_assert!(false, "refused with {}", code),
                }
            }
            prop_assert!(false, "the transfer does not end");
        }

        #[test]
        fn a_served_body_is_assembled_whole(body in proptest::collection::vec(any::<u8>(), 0..9000), exponent in 0_u8..=7, room in 1024_usize..5000) {
            let mut download = Download::new(10_000);
            let mut asked = Block { num: 0, more: false, size: size(exponent) };
            for _ in 0..1000 {
                let (block, part) = slice(&body, asked, room).unwrap();
                let mut message = Message::new(Code::CONTENT);
                message.payload = part.to_vec();
                match download.on(block, &message) {
                    Downloaded::Next(next) => asked = next,
                    Downloaded::Done(whole) => {
                        prop_assert_eq!(whole, body);
                        return Ok(());
                    }
                    bad => prop_assert!(false, "{:?}", bad),
                }
            }
            prop_assert!(false, "the transfer does not end");
        }
    }
}
