//! What the service wants of a registered device, one thing at a time and in order. Never sends anything itself.

use std::collections::VecDeque;

use fleet_store::DesiredRelease;
use protocol_lwm2m::{
    client::WriteMode,
    coap::ContentFormat,
    formats::Entry,
    object::{Path, ids},
    server::Operation,
};
use protocol_types::DeviceConsent;

use super::{report::RELEASE_OBJECT, tries};

/// `/26241/0`
pub(super) const RELEASE: Path = Path::instance(RELEASE_OBJECT, 0);
/// `/3/0`
const DEVICE: Path = Path::instance(3, 0);

/// One thing that the service wants.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Errand {
    /// Have it forget its state, if an operator asked for that.
    FactoryReset,
    /// Tell it where artifacts are.
    NameArtifactServer,
    /// Tell it what to run.
    WriteWish,
    /// Hear at once and from then on what it says about its software.
    Observe,
    /// Ask what it is.
    ReadNameplate,
    /// Give it its configuration.
    WriteConfiguration,
    /// Hear at once and from then on what it says about its configuration.
    ObserveConfiguration,
    /// Tell it how much it may send to say how it is.
    WriteMetricsBudget,
    /// Hear at once and from then on how it is.
    ObserveMetrics,
    /// Tell it what it need not send again.
    AcknowledgeMetrics,
    /// Give it the next command of an operator.
    Command,
    /// Hear at once and from then on what it says about its jobs.
    ObserveJobs,
    /// See whether it still answers although it has registered elsewhere.
    Probe,
}

impl Errand {
    /// Whether it tells the device to do something; a quarantined one is only listened to.
    const fn is_order(self) -> bool {
        matches!(
            self,
            Self::FactoryReset
                | Self::NameArtifactServer
                | Self::WriteWish
                | Self::WriteConfiguration
                | Self::WriteMetricsBudget
                | Self::Command
        )
    }
}

/// An errand whose answer is awaited.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct UnderWay {
    id: u64,
    pub(super) errand: Errand,
    /// The generation of the wish that was written.
    pub(super) generation: u64,
}

/// What is left to do on one connection.
#[derive(Debug, Default)]
pub(super) struct Errands {
    waiting: VecDeque<Errand>,
    under_way: Option<UnderWay>,
    last_id: u64,
}

impl Errands {
    /// Begins anew: everything that a device hears after it has registered.
    pub(super) fn after_registration(&mut self) {
        // A state that is to be forgotten needs no other order first.
        self.waiting = [
            Errand::FactoryReset,
            Errand::NameArtifactServer,
            Errand::WriteWish,
            Errand::Observe,
            Errand::ReadNameplate,
            Errand::WriteConfiguration,
        ]
        .into();
        self.under_way = None;
    }

    /// Gives the orders that were held back.
    pub(super) fn give_orders(&mut self) {
        self.add(Errand::FactoryReset);
        self.add(Errand::NameArtifactServer);
        self.add(Errand::WriteWish);
        self.add(Errand::WriteConfiguration);
        self.add(Errand::Command);
    }

    /// Adds an errand, unless it waits already.
    pub(super) fn add(&mut self, errand: Errand) {
        if !self.waiting.contains(&errand) {
            self.waiting.push_back(errand);
        }
    }

    /// Forgets everything but a probe.
    pub(super) fn only_probe(&mut self) {
        self.clear();
        self.add(Errand::Probe);
    }

    /// Forgets everything; an answer that still comes is nobody's.
    pub(super) fn clear(&mut self) {
        self.waiting.clear();
        self.under_way = None;
    }

    /// The next errand, if none is under way. Without `may_order` orders are dropped: they are given again when they may be.
    pub(super) fn next(&mut self, may_order: bool) -> Option<Errand> {
        if self.under_way.is_some() {
            return None;
        }
        loop {
            let errand = self.waiting.pop_front()?;
            if may_order || !errand.is_order() {
                return Some(errand);
            }
        }
    }

    /// Notes that an errand is under way; its number, which no other of this connection has.
    pub(super) fn begin(&mut self, errand: Errand, generation: u64) -> u64 {
        self.last_id += 1;
        self.under_way = Some(UnderWay { id: self.last_id, errand, generation });
        self.last_id
    }

    /// The errand that an answer belongs to.
    pub(super) fn answered(&mut self, id: u64) -> Option<UnderWay> {
        self.under_way.take_if(|under_way| under_way.id == id)
    }
}

pub(super) fn factory_reset() -> Operation {
    Operation::Execute { path: Path::resource(3, 0, 5), arguments: String::new() }
}

/// Where artifacts are.
pub(super) fn name_artifact_server(uri: String) -> Operation {
    write(vec![entry(14, uri)])
}

/// What to run, and who is asked first; empty texts if nothing is wanted. Without anybody to ask nothing is said about that, so that
/// devices that know of no consent take it.
pub(super) fn write_wish(release: Option<&DesiredRelease>, consent: Option<DeviceConsent>) -> Operation {
    let text = |of: fn(&DesiredRelease) -> String| release.map(of).unwrap_or_default();
    let asks = consent.map(|consent| entry(ids::release::CONSENT, consent.to_string()));
    let wish = [
        entry(0, text(|release| release.path.to_string())),
        entry(1, text(|release| release.digest.to_string())),
        entry(2, text(|release| tries::name(&release.rollout, release.attempt))),
    ];
    write(wish.into_iter().chain(asks).collect())
}

pub(super) const fn observe() -> Operation {
    Operation::Observe { path: RELEASE, accept: Some(ContentFormat::SENML_CBOR) }
}

pub(super) const fn read_nameplate() -> Operation {
    Operation::Read { path: DEVICE, accept: Some(ContentFormat::SENML_CBOR) }
}

pub(super) const fn probe() -> Operation {
    Operation::Read { path: Path::resource(RELEASE_OBJECT, 0, 3), accept: Some(ContentFormat::SENML_CBOR) }
}

fn entry(resource: u16, text: String) -> Entry {
    Entry::new(Path::resource(RELEASE_OBJECT, 0, resource), text)
}

fn write(entries: Vec<Entry>) -> Operation {
    Operation::Write { path: RELEASE, mode: WriteMode::Partial, entries, format: ContentFormat::SENML_CBOR }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_quarantined_device_is_listened_to_and_ordered_nothing() {
        let mut errands = Errands::default();
        errands.after_registration();
        let mut done = Vec::new();
        while let Some(errand) = errands.next(false) {
            let id = errands.begin(errand, 0);
            done.push(errands.answered(id).unwrap().errand);
        }
        assert_eq!(done, [Errand::Observe, Errand::ReadNameplate]);
        errands.give_orders();
        assert_eq!(errands.next(true), Some(Errand::FactoryReset));
        assert_eq!(errands.next(true), Some(Errand::NameArtifactServer));
        assert_eq!(errands.next(true), Some(Errand::WriteWish));
        assert_eq!(errands.next(true), Some(Errand::WriteConfiguration));
        assert_eq!(errands.next(true), Some(Errand::Command));
    }

    #[test]
    fn a_wish_that_changes_while_it_is_written_is_written_once_more() {
        let mut errands = Errands::default();
        errands.add(Errand::WriteWish);
        let errand = errands.next(true).unwrap();
        let id = errands.begin(errand, 1);
        errands.add(Errand::WriteWish);
        errands.add(Errand::WriteWish);
        assert_eq!(errands.next(true), None, "two requests at once");
        assert_eq!(errands.answered(id).unwrap().generation, 1);
        assert_eq!(errands.next(true), Some(Errand::WriteWish));
        assert_eq!(errands.next(true), None);
    }

    #[test]
    fn a_wish_says_who_is_asked_and_nothing_of_it_where_nobody_is() {
        let resources = |consent| match write_wish(None, consent) {
            Operation::Write { entries, .. } => entries.iter().map(|entry| entry.path.ids()[2]).collect::<Vec<_>>(),
            other => panic!("{other:?}"),
        };
        assert_eq!(resources(None), [0, 1, 2]);
        assert_eq!(resources(Some(DeviceConsent { deadline: None })), [0, 1, 2, 16]);
    }

    #[test]
    fn an_answer_to_what_was_given_up_belongs_to_nothing() {
        let mut errands = Errands::default();
        errands.after_registration();
        let errand = errands.next(true).unwrap();
        let old = errands.begin(errand, 0);
        errands.only_probe();
        let probe = errands.next(true).unwrap();
        let new = errands.begin(probe, 0);
        assert_eq!(errands.answered(old), None);
        assert_eq!(errands.answered(new).unwrap().errand, Errand::Probe);
    }
}
