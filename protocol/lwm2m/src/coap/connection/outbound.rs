//! Requests of ours: cut if large, sent, their responses assembled, their notifications told apart. Never decides what to ask.

use super::{Connection, Exchange, ExchangeError, Observation, Output};
use crate::{
    coap::{
        Block, Message, OptionNumber, Token,
        blockwise::{Download, Downloaded, Upload, Uploaded, size_for},
        observe::Interest,
    },
    time::Millis,
};

impl<T: Clone> Connection<T> {
    /// Sends a request; the token is set here. Its outcome is a [`Output::Response`] or [`Output::Failed`] with this tag, and if it
    /// has Observe 0 and is granted, any number of [`Output::Notification`]s after that.
    pub fn request(&mut self, now: Millis, request: Message, tag: T, out: &mut Vec<Output<T>>) {
        let error = if !self.is_open() {
            Some(ExchangeError::ConnectionLost)
        } else if request.payload.len() > self.limits.max_body {
            Some(ExchangeError::TooLarge)
        } else {
            None
        };
        match error {
            Some(error) => out.push(Output::Failed { tag, error }),
            None => self.begin(now, request, tag, out),
        }
    }

    fn begin(&mut self, now: Millis, mut request: Message, tag: T, out: &mut Vec<Output<T>>) {
        let room = self.room(&request);
        let body = std::mem::take(&mut request.payload);
        let mut exchange =
            Exchange { tag, request, upload: None, download: Download::new(self.limits.max_body), observation: None };
        let mut first = exchange.request.clone();
        if body.len() <= room {
            first.payload = body;
        } else {
            let size = size_for(room, self.peer.bert()).filter(|_| self.peer.block_wise);
            let Some(size) = size else {
                return out.push(exchange.failed(ExchangeError::TooLarge));
            };
            let upload = Upload::new(body, size, room);
            first = block1_request(&exchange.request, &upload);
            exchange.upload = Some(upload);
        }
        self.start(now, exchange, first, out);
    }

    /// Gives the exchange a token that no other exchange or observation has, and sends its first message.
    fn start(&mut self, now: Millis, exchange: Exchange<T>, first: Message, out: &mut Vec<Output<T>>) {
        let in_use = |token| self.observations.iter().any(|observation| observation.token == token);
        match self.exchanges.begin(now.plus(self.limits.exchange_timeout), exchange, in_use) {
            Ok(token) => out.push(Output::Send(first.with_token(token))),
            Err(exchange) => out.push(exchange.failed(ExchangeError::TooMany)),
        }
    }

    /// Ends an observation: sends the request that began it once more with Observe 1 and the same token (RFC 7641 section 3.6).
    /// False if no observation has a tag that `is_it` accepts.
    pub fn cancel(&mut self, now: Millis, is_it: impl Fn(&T) -> bool, tag: T, out: &mut Vec<Output<T>>) -> bool {
        let Some(at) = self.observations.iter().position(|observation| is_it(&observation.tag)) else { return false };
        let Observation { token, mut request, .. } = self.observations.remove(at);
        request.options.set_uint(OptionNumber::OBSERVE, 1);
        // The token is the name of the observation, so the exchange takes it over.
        let exchange = Exchange {
            tag,
            request: request.clone(),
            upload: None,
            download: Download::new(self.limits.max_body),
            observation: None,
        };
        match self.exchanges.begin_with(token, self.deadline(now), exchange) {
            Ok(()) => out.push(Output::Send(request.with_token(token))),
            Err(exchange) => out.push(exchange.failed(ExchangeError::TooMany)),
        }
        true
    }

    /// Forgets every observation; what still arrives for one is passed over.
    pub fn forget_observations(&mut self) {
        self.observations.clear();
    }

    pub(super) fn response_arrived(&mut self, now: Millis, response: Message, out: &mut Vec<Output<T>>) {
        let token = response.token;
        let is_bad = response.options.check().is_err();
        if let Some(exchange) = self.exchanges.get_mut(token) {
            if is_bad {
                return self.fail(token, ExchangeError::Broken, out);
            }
            match exchange.upload.as_mut().map(|upload| upload.on(&response)) {
                Some(Uploaded::Next) => return self.next_block1(now, token, out),
                Some(Uploaded::Broken) => return self.fail(token, ExchangeError::Broken, out),
                Some(Uploaded::Done) | None => exchange.upload = None,
            }
            self.answered(now, response, out);
        } else if !is_bad && self.observations.iter().any(|observation| observation.token == token) {
            self.notified(now, response, out);
        }
        // A response that nobody waits for is passed over (RFC 8323 section 3.4 has no reset).
    }

    fn fail(&mut self, token: Token, error: ExchangeError, out: &mut Vec<Output<T>>) {
        if let Some(exchange) = self.exchanges.end(token) {
            out.push(exchange.failed(error));
        }
    }

    fn next_block1(&mut self, now: Millis, token: Token, out: &mut Vec<Output<T>>) {
        self.exchanges.extend(token, self.deadline(now));
        let Some(exchange) = self.exchanges.get(token) else { return };
        if let Some(upload) = &exchange.upload {
            out.push(Output::Send(block1_request(&exchange.request, upload).with_token(token)));
        }
    }

    /// The response to a whole request: perhaps the first block of a larger one, perhaps the start of an observation.
    fn answered(&mut self, now: Millis, response: Message, out: &mut Vec<Output<T>>) {
        let token = response.token;
        let Some(mut exchange) = self.exchanges.end(token) else { return };
        let begins = Interest::of(&exchange.request) == Some(Interest::Begin);
        if begins && response.code.is_success() && response.options.uint(OptionNumber::OBSERVE).is_some() {
            let (tag, request) = (exchange.tag.clone(), exchange.request.clone());
            self.observations.push(Observation { token, tag, request });
        }
        exchange.request.options.remove(OptionNumber::OBSERVE);
        self.assemble(now, exchange, response, out);
    }

    fn notified(&mut self, now: Millis, response: Message, out: &mut Vec<Output<T>>) {
        let Some(at) = self.observations.iter().position(|observation| observation.token == response.token) else {
            return;
        };
        // The newer notification stands for the older one, of which there may be more to fetch (RFC 7641 section 3.4).
        self.exchanges.forget(|exchange| exchange.observation == Some(response.token));
        let observation = &self.observations[at];
        let (tag, mut request) = (observation.tag.clone(), observation.request.clone());
        if !response.code.is_success() {
            // An error ends the observation (RFC 7641 section 4.2).
            self.observations.remove(at);
        }
        request.options.remove(OptionNumber::OBSERVE);
        let download = Download::new(self.limits.max_body);
        let exchange = Exchange { tag, request, upload: None, download, observation: Some(response.token) };
        self.assemble(now, exchange, response, out);
    }

    /// Delivers a whole response, or asks for its next block.
    fn assemble(&mut self, now: Millis, mut exchange: Exchange<T>, mut response: Message, out: &mut Vec<Output<T>>) {
        if let Some(block) = Block::of(&response.options, OptionNumber::BLOCK2).filter(|_| response.code.is_success()) {
            let failed = match exchange.download.on(block, &response) {
                Downloaded::Done(body) => {
                    response.payload = body;
                    response.options.remove(OptionNumber::BLOCK2);
                    None
                }
                Downloaded::Next(next) => {
                    let mut request = exchange.request.clone();
                    request.options.remove(OptionNumber::BLOCK1);
                    request.options.set_uint(OptionNumber::BLOCK2, next.to_uint());
                    self.start(now, exchange, request, out);
                    return;
                }
                Downloaded::TooLarge => Some(ExchangeError::TooLarge),
                Downloaded::Broken => Some(ExchangeError::Broken),
            };
            if let Some(error) = failed {
                return out.push(exchange.failed(error));
            }
        }
        out.push(match exchange.observation {
            Some(_) => Output::Notification { tag: exchange.tag, response },
            None => Output::Response { tag: exchange.tag, response },
        });
    }
}

/// The request that carries the current part of an upload; the first one says how large the whole is.
fn block1_request(request: &Message, upload: &Upload) -> Message {
    let (block, part) = upload.part();
    let mut message = request.clone().with_uint(OptionNumber::BLOCK1, block.to_uint());
    if let (0, Ok(size)) = (block.num, u32::try_from(upload.len())) {
        message.options.set_uint(OptionNumber::SIZE1, size);
    }
    message.payload = part.to_vec();
    message
}
