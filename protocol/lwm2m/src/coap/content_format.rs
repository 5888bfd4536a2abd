//! The one table of content formats (IANA CoAP Content-Formats, OMA LwM2M 1.1 section 7.4).

use std::fmt;

/// The number of a media type in Content-Format and Accept.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ContentFormat(pub u16);

macro_rules! formats {
    ($($name:ident = $number:literal, $media:literal;)+) => {
        impl ContentFormat {
            $(#[doc = concat!("`", $media, "`")] pub const $name: Self = Self($number);)+

            /// The media type, where the table knows it.
            pub const fn media_type(self) -> Option<&'static str> {
                match self.0 { $($number => Some($media),)+ _ => None }
            }
        }
    };
}

formats! {
    TEXT = 0, "text/plain; charset=utf-8";
    LINK = 40, "application/link-format";
    OPAQUE = 42, "application/octet-stream";
    CBOR = 60, "application/cbor";
    SENML_JSON = 110, "application/senml+json";
    SENML_CBOR = 112, "application/senml+cbor";
    PKCS7_CERTS = 281, "application/pkcs7-mime; smime-type=certs-only";
    PKCS10 = 286, "application/pkcs10";
    PKIX_CERT = 287, "application/pkix-cert";
    TLV = 11542, "application/vnd.oma.lwm2m+tlv";
    JSON = 11543, "application/vnd.oma.lwm2m+json";
}

impl fmt::Display for ContentFormat {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.media_type() {
            Some(media) => write!(f, "{} ({media})", self.0),
            None => self.0.fmt(f),
        }
    }
}

impl fmt::Debug for ContentFormat {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}
