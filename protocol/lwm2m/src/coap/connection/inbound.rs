//! Requests of the peer: assembled if they come in blocks, answered whole or in blocks; and its Pings, some of which wait for those
//! answers. Never decides what to answer.

use super::{Connection, Inbound, InboundId, Output, Ping};
use crate::{
    coap::{
        Block, Code, Message, OptionNumber, Token,
        blockwise::{Assembled, Key, size_for, slice},
        option::BadOption,
        signal::Signal,
    },
    time::Millis,
};

impl<T: Clone> Connection<T> {
    pub(super) fn request_arrived(&mut self, now: Millis, mut request: Message, out: &mut Vec<Output<T>>) {
        if let Err(bad) = request.options.check() {
            return refuse(request.token, bad.code(), &bad.to_string(), out);
        }
        let has = |number| request.options.first(number).is_some();
        if has(OptionNumber::PROXY_URI) || has(OptionNumber::PROXY_SCHEME) {
            return refuse(request.token, Code::PROXYING_NOT_SUPPORTED, "this is no proxy", out);
        }
        for number in [OptionNumber::IF_MATCH, OptionNumber::IF_NONE_MATCH] {
            if has(number) {
                // Nobody here compares, so to go on would do what was asked for on a condition.
                let bad = BadOption(number);
                return refuse(request.token, bad.code(), &bad.to_string(), out);
            }
        }
        let key = Key::of(&request);
        let block1 = Block::of(&request.options, OptionNumber::BLOCK1);
        let block2 = Block::of(&request.options, OptionNumber::BLOCK2);
        if let Some(block) = block1 {
            let too_large = request.options.uint(OptionNumber::SIZE1).and_then(|size| usize::try_from(size).ok());
            let assembled = match too_large.filter(|size| *size > self.limits.max_body) {
                Some(_) => Assembled::Refused(Code::REQUEST_ENTITY_TOO_LARGE),
                None => self.uploads.on(key.clone(), block, &request.payload, self.deadline(now)),
            };
            match assembled {
                Assembled::Whole(body) => request.payload = body,
                Assembled::Continue => {
                    let message = Message::new(Code::CONTINUE).with_uint(OptionNumber::BLOCK1, block.to_uint());
                    return out.push(Output::Send(message.with_token(request.token)));
                }
                Assembled::Refused(code) => return refuse(request.token, code, "", out),
            }
        } else if let Some(block) = block2.filter(|block| block.num > 0) {
            if self.next_block2(&key, block, request.token, out) {
                return;
            }
            if !matches!(request.code, Code::GET | Code::FETCH) {
                // To run the request again would do twice what was asked for once.
                return refuse(request.token, Code::REQUEST_ENTITY_INCOMPLETE, "", out);
            }
        }
        if self.inbound.len() >= self.limits.max_inbound {
            return refuse(request.token, Code::SERVICE_UNAVAILABLE, "too many requests under way", out);
        }
        self.last_inbound += 1;
        let id = InboundId(self.last_inbound);
        self.inbound.push(Inbound { id, token: request.token, key, block1, block2 });
        request.options.remove(OptionNumber::BLOCK1);
        request.options.remove(OptionNumber::BLOCK2);
        request.options.remove(OptionNumber::SIZE1);
        out.push(Output::Request { id, request });
    }

    /// Answers a request for a later block of a response that is kept; false if none is.
    fn next_block2(&self, key: &Key, block: Block, token: Token, out: &mut Vec<Output<T>>) -> bool {
        let Some(whole) = self.downloads.get(key) else { return false };
        match self.part(whole, block) {
            Some(part) => out.push(Output::Send(part.with_token(token))),
            None => refuse(token, Code::BAD_REQUEST, "the block lies behind the end", out),
        }
        true
    }

    /// Answers a request of the peer; a response that is too large for one message goes out in blocks.
    pub fn respond(&mut self, now: Millis, id: InboundId, mut response: Message, out: &mut Vec<Output<T>>) {
        let Some(at) = self.inbound.iter().position(|inbound| inbound.id == id) else { return };
        let Inbound { token, key, block1, block2, .. } = self.inbound.remove(at);
        if let Some(block) = block1 {
            response.options.set_uint(OptionNumber::BLOCK1, Block { more: false, ..block }.to_uint());
        }
        self.send_whole(now, response.with_token(token), (key, block2), out);
        self.answer_pings(out);
    }

    /// A Pong with custody says that every request before the Ping was dealt with, so it waits for their answers (RFC 8323 section 5.4.1).
    /// More Pings than requests may wait are answered at once, with a Pong that says nothing.
    pub(super) fn pinged(&mut self, custody: bool, token: Token, out: &mut Vec<Output<T>>) {
        let waits = custody && !self.inbound.is_empty();
        if waits && self.pings.len() < self.limits.max_inbound {
            return self.pings.push(Ping { token, after: InboundId(self.last_inbound) });
        }
        out.push(pong(custody && !waits, token));
    }

    /// Answers the Pings before which every request was answered.
    fn answer_pings(&mut self, out: &mut Vec<Output<T>>) {
        let inbound = &self.inbound;
        self.pings.retain(|Ping { token, after }| {
            let waits = inbound.iter().any(|inbound| inbound.id.0 <= after.0);
            if !waits {
                out.push(pong(true, *token));
            }
            waits
        });
    }

    /// Sends a notification for an observing request of the peer.
    pub fn notify(&mut self, now: Millis, observing: &Message, response: Message, out: &mut Vec<Output<T>>) {
        if self.is_open() {
            self.send_whole(now, response.with_token(observing.token), (Key::of(observing), None), out);
        }
    }

    fn send_whole(&mut self, now: Millis, mut response: Message, to: (Key, Option<Block>), out: &mut Vec<Output<T>>) {
        let (key, asked) = to;
        let room = self.room(&response);
        let wants_less = asked.is_some_and(|asked| {
            asked.num > 0 || slice(&response.payload, asked, room).is_none_or(|(block, _)| block.more)
        });
        if response.payload.len() <= room && !wants_less {
            return out.push(Output::Send(response));
        }
        let token = response.token;
        let size = size_for(room, self.peer.bert()).filter(|_| self.peer.block_wise || asked.is_some());
        let Some(size) = size.filter(|_| response.payload.len() <= self.limits.max_body) else {
            return refuse(token, Code::INTERNAL_SERVER_ERROR, "the response is larger than the client takes", out);
        };
        let block = asked.map_or(Block { num: 0, more: false, size }, |asked| {
            let smaller = size.min(asked.size);
            let num = asked.offset() / smaller.unit();
            Block { num: u32::try_from(num).unwrap_or(Block::MAX_NUM), more: false, size: smaller }
        });
        if response.options.first(OptionNumber::ETAG).is_none() {
            response.options.push(OptionNumber::ETAG, &digest(&response.payload).to_be_bytes());
        }
        match self.part(&response, block) {
            Some(part) => out.push(Output::Send(part)),
            None => return refuse(token, Code::BAD_REQUEST, "the block lies behind the end", out),
        }
        // What only the first message of a transfer carries.
        response.options.remove(OptionNumber::OBSERVE);
        response.options.remove(OptionNumber::BLOCK1);
        self.downloads.keep(key, response, self.deadline(now));
    }

    /// One block of a whole response.
    fn part(&self, whole: &Message, asked: Block) -> Option<Message> {
        let (block, part) = slice(&whole.payload, asked, self.room(whole))?;
        let mut message = Message { payload: part.to_vec(), ..Message::new(whole.code) };
        message.token = whole.token;
        message.options = whole.options.clone();
        message.options.set_uint(OptionNumber::BLOCK2, block.to_uint());
        if let (0, Ok(size)) = (block.num, u32::try_from(whole.payload.len())) {
            message.options.set_uint(OptionNumber::SIZE2, size);
        }
        Some(message)
    }
}

fn pong<T>(custody: bool, token: Token) -> Output<T> {
    Output::Send(Signal::Pong { custody }.message().with_token(token))
}

fn refuse<T>(token: Token, code: Code, why: &str, out: &mut Vec<Output<T>>) {
    out.push(Output::Send(Message::refusal(code, why).with_token(token)));
}

/// FNV-1a: tells two versions of a body apart; nothing rests on it being hard to forge.
fn digest(body: &[u8]) -> u64 {
    body.iter().fold(0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3))
}
