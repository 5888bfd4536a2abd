//! What a device in its factory step says on a line that others use too: on a serial port the firmware, the kernel and the service
//! manager print between, and into, its words. Finds the words; never reads the line itself.

use rcgen::CertificateSigningRequestParams;

const BEGIN: &str = "-----BEGIN CERTIFICATE REQUEST-----";
const END: &str = "-----END CERTIFICATE REQUEST-----";
const ACCEPTED: &str = "mbl-factory: accepted ";
const REFUSED: &str = "mbl-factory: refused: ";

/// How a device ended its factory step.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// It keeps the package.
    Accepted,
    /// It does not, and why.
    Refused(String),
}

/// The end of what was heard, as much as the longest words need.
#[derive(Debug, Default)]
pub(crate) struct Heard(Vec<u8>);

impl Heard {
    /// A request for a P-256 key is a tenth of this.
    const MOST: usize = 16 * 1024;

    /// Adds what was heard; the oldest is forgotten.
    pub(crate) fn push(&mut self, bytes: &[u8]) {
        self.0.extend_from_slice(bytes);
        let beyond = self.0.len().saturating_sub(Self::MOST);
        self.0.drain(..beyond);
    }

    /// The newest certificate request that arrived whole and is signed with its own key, as PEM. What the kernel printed into one
    /// makes it another text, and the device says it again.
    pub(crate) fn request(&self) -> Option<String> {
        let text = self.text();
        text.rmatch_indices(END).find_map(|(at, _)| {
            let upto = text.get(..at + END.len())?;
            let request = upto.get(upto.rfind(BEGIN)?..)?;
            CertificateSigningRequestParams::from_pem(request).is_ok().then(|| format!("{request}\n"))
        })
    }

    /// The first outcome whose line is complete.
    pub(crate) fn outcome(&self) -> Option<Outcome> {
        self.text().split_inclusive('\n').filter(|line| line.ends_with('\n')).find_map(|line| {
            if line.contains(ACCEPTED) {
                return Some(Outcome::Accepted);
            }
            line.split_once(REFUSED).map(|(_, why)| Outcome::Refused(why.trim_end().to_owned()))
        })
    }

    fn text(&self) -> String {
        String::from_utf8_lossy(&self.0).replace('\r', "")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request() -> String {
        let key = rcgen::KeyPair::generate().unwrap();
        rcgen::CertificateParams::default().serialize_request(&key).unwrap().pem().unwrap()
    }

    #[test]
    fn a_request_is_found_between_what_others_print() {
        let request = request().replace("\r\n", "\n");
        let mut heard = Heard::default();
        heard.push(b"\x1b[2J\xff BdsDxe: starting\r\n[    1.0] loading");
        assert_eq!(heard.request(), None);
        heard.push(format!("\n{}[    2.0] random: ready\r\n", request.replace('\n', "\r\n")).as_bytes());
        assert_eq!(heard.request().unwrap().trim_end(), request.trim_end());
    }

    #[test]
    fn a_request_that_was_printed_into_is_passed_over_until_it_is_said_again() {
        let request = request();
        let mut heard = Heard::default();
        let (start, rest) = request.split_at(80);
        heard.push(format!("{start}[    3.0] audit: backlog\r\n{rest}").as_bytes());
        assert_eq!(heard.request(), None);
        heard.push(request.as_bytes());
        assert!(heard.request().is_some());
    }

    #[test]
    fn an_outcome_counts_when_its_line_is_complete() {
        let mut heard = Heard::default();
        heard.push(b"[    4.0] noise mbl-factory: refused: not this ");
        assert_eq!(heard.outcome(), None);
        heard.push(b"device\r\n");
        assert_eq!(heard.outcome(), Some(Outcome::Refused("not this device".to_owned())));
        let mut heard = Heard::default();
        heard.push(b"mbl-factory: acc[ 5.0] noise\nmbl-factory: accepted sha256:00\n");
        assert_eq!(heard.outcome(), Some(Outcome::Accepted));
    }

    #[test]
    fn a_line_that_never_ends_is_forgotten() {
        let mut heard = Heard::default();
        (0..100).for_each(|_| heard.push(&[b'x'; 1000]));
        heard.push(b"\nmbl-factory: accepted x\n");
        assert!(heard.0.len() <= Heard::MOST);
        assert_eq!(heard.outcome(), Some(Outcome::Accepted));
    }
}
