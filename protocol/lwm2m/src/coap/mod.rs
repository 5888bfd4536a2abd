//! CoAP: messages and everything that is true of them on any transport. Never knows what a resource means.

pub mod block;
pub mod blockwise;
pub mod code;
pub mod connection;
pub mod content_format;
pub mod exchanges;
pub mod message;
pub mod observe;
pub mod option;
pub mod signal;
pub mod tcp;
pub mod token;
pub mod udp;

mod wire;

pub use block::{Block, BlockSize};
pub use code::Code;
pub use connection::{Connection, ExchangeError, Limits};
pub use content_format::ContentFormat;
pub use message::Message;
pub use option::{OptionNumber, Options};
pub use token::Token;
pub use wire::WireError;
