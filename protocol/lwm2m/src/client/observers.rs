//! Who observes what, and when a notification is due (LwM2M 1.1 sections 5.1.2 and 6.4). Never reads a value by itself.

use crate::{
    coap::{ContentFormat, Message, Token},
    formats::Entry,
    object::{Attributes, Path},
    time::Millis,
};

const MOST_OBSERVERS: usize = 64;

/// One observation of the server.
#[derive(Debug)]
pub(super) struct Observer {
    /// The request that began it; its token names the observation.
    pub(super) request: Message,
    pub(super) path: Path,
    pub(super) format: ContentFormat,
    attributes: Attributes,
    sent: Millis,
    /// The number at the last notification, where there is exactly one.
    number: Option<f64>,
    changed: bool,
}

/// All observations of the connection that stands.
#[derive(Debug, Default)]
pub(super) struct Observers {
    list: Vec<Observer>,
    sequence: u32,
}

impl Observers {
    /// Begins an observation whose first notification is the response; false if there are too many.
    pub(super) fn begin(
        &mut self,
        now: Millis,
        request: Message,
        about: (Path, ContentFormat),
        read: &[Entry],
    ) -> bool {
        self.end(request.token);
        if self.list.len() >= MOST_OBSERVERS {
            return false;
        }
        let (path, format) = about;
        let attributes = Attributes::default();
        let number = single_number(read);
        self.list.push(Observer { request, path, format, attributes, sent: now, number, changed: false });
        true
    }

    /// Ends the observation that this token names.
    pub(super) fn end(&mut self, token: Token) {
        self.list.retain(|observer| observer.request.token != token);
    }

    /// The connection is gone, and every observation with it.
    pub(super) fn clear(&mut self) {
        self.list.clear();
    }

    /// A value at or below `path` changed.
    pub(super) fn changed(&mut self, path: &Path) {
        self.list
            .iter_mut()
            .filter(|observer| observer.path.overlaps(path))
            .for_each(|observer| observer.changed = true);
    }

    /// Looks up the attributes of each observed path anew.
    pub(super) fn set_attributes(&mut self, of: impl Fn(&Path) -> Attributes) {
        self.list.iter_mut().for_each(|observer| observer.attributes = of(&observer.path));
    }

    /// When the next notification is due.
    pub(super) fn next_deadline(&self) -> Option<Millis> {
        self.list.iter().filter_map(Observer::due).min()
    }

    /// Decides on every observation that is due. `read` gives what its path holds now; `Some` of it is to be sent under the
    /// number that goes with it. An observation that cannot be read any more ends with what `read` says instead.
    pub(super) fn take_due<E>(
        &mut self,
        now: Millis,
        mut read: impl FnMut(&Path) -> Result<Vec<Entry>, E>,
        mut send: impl FnMut(&Observer, u32, Result<Vec<Entry>, E>),
    ) {
        let sequence = &mut self.sequence;
        self.list.retain_mut(|observer| {
            if observer.due().is_none_or(|due| due > now) {
                return true;
            }
            let entries = read(&observer.path);
            let number = entries.as_ref().ok().and_then(|entries| single_number(entries));
            let overdue = observer.attributes.longest().is_some_and(|longest| observer.sent.plus(longest) <= now);
            observer.changed = false;
            if !overdue && !observer.attributes.worth(observer.number, number) {
                return true;
            }
            let stays = entries.is_ok();
            *sequence = (*sequence + 1) & 0x00ff_ffff;
            (observer.number, observer.sent) = (number, now);
            send(observer, *sequence, entries);
            stays
        });
    }
}

impl Observer {
    fn due(&self) -> Option<Millis> {
        let after_change = self.changed.then(|| self.sent.plus(self.attributes.shortest()));
        let at_latest = self.attributes.longest().map(|longest| self.sent.plus(longest));
        after_change.into_iter().chain(at_latest).min()
    }
}

fn single_number(entries: &[Entry]) -> Option<f64> {
    match entries {
        [one] => one.value.as_f64(),
        _ => None,
    }
}
