//! The LwM2M objects of the device: what a server reads, and the few things it may write or execute. Holds the newest facts so
//! that a notification and a later Read agree; never touches a socket.

mod configuration;
mod connectivity;
mod device;
mod firmware;
mod jobs;
mod metrics;
mod release;
mod software;

use std::{
    net::IpAddr,
    sync::{Arc, PoisonError, RwLock},
};

use protocol_lwm2m::{
    client::{ObjectError, Objects, Reading, WriteMode},
    formats::{Entry, Value},
    object::{Accounts, Path, definition, ids},
};
use protocol_types::{ReasonCode, UpdateStatus, recovery::SealedRecoveryKey};

pub use connectivity::{Bearer, Connectivity};

use crate::{
    cause::Chain,
    clock::VerificationClock,
    configuration::Told,
    durable::DurableError,
    enrolment::Enrolment,
    facts::{Facts, set},
    identity::Identity,
    jobs::{JobStatus, Taken},
    orders::Orders,
    state::DurableState,
};
use software::Installed;

/// What does not change while the process runs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct About {
    /// Who made the device.
    pub manufacturer: String,
    /// Which model it is.
    pub model: String,
    /// Its serial number.
    pub serial: String,
    /// The recovery key of its state, sealed to its account.
    pub recovery_key: Option<SealedRecoveryKey>,
}

impl About {
    /// A device of this identity, made by `manufacturer`, without a recovery key.
    pub fn new(identity: &Identity, manufacturer: &str) -> Self {
        let document = identity.document();
        Self {
            manufacturer: manufacturer.to_owned(),
            model: document.board.to_string(),
            serial: document.endpoint.to_string(),
            recovery_key: None,
        }
    }
}

/// The objects of one device.
#[derive(Debug)]
pub struct DeviceObjects {
    about: About,
    facts: Arc<Facts>,
    state: Arc<dyn DurableState>,
    clock: Arc<VerificationClock>,
    /// What the device is enrolled with: accounts are kept together with the certificate.
    enrolment: Option<Enrolment>,
    connectivity: RwLock<Connectivity>,
    status: Option<UpdateStatus>,
    told: Option<Told>,
    job: Option<JobStatus>,
    installed: Installed,
}

impl DeviceObjects {
    /// Objects that show `facts` and keep what is written in `state`.
    pub fn new(about: About, facts: Arc<Facts>, state: Arc<dyn DurableState>, clock: Arc<VerificationClock>) -> Self {
        let mut objects = Self {
            about,
            facts,
            state,
            clock,
            enrolment: None,
            connectivity: RwLock::default(),
            status: None,
            told: None,
            job: None,
            installed: Installed::default(),
        };
        objects.refresh();
        objects
    }

    /// Takes the newest facts and says below which paths values changed.
    pub fn refresh(&mut self) -> Vec<Path> {
        let before = self.shown();
        self.status = self.facts.status.borrow().clone();
        self.told = self.facts.told.borrow().clone();
        self.job = self.facts.jobs.borrow().as_ref().map(crate::jobs::Ledger::status);
        let applications = self.facts.applications.borrow().clone();
        self.installed.refresh(self.status.as_ref(), applications);
        let after = self.shown();
        let gone_or_new = before.iter().filter(|shown| !after.contains(shown));
        let come_or_new = after.iter().filter(|shown| !before.contains(shown));
        let mut paths: Vec<_> = gone_or_new.chain(come_or_new).map(|(path, _)| *path).collect();
        paths.sort_unstable();
        paths.dedup();
        paths
    }

    /// The device is enrolled with this from now on.
    pub fn enrolled(&mut self, enrolment: Enrolment) {
        self.enrolment = Some(enrolment);
    }

    /// The connection to the service now leaves the device at this address.
    pub fn connected_from(&self, address: IpAddr) {
        let found = Connectivity::find(address);
        *self.connectivity.write().unwrap_or_else(PoisonError::into_inner) = found;
    }

    /// Every value that depends on what the root processes report.
    fn shown(&self) -> Vec<(Path, Reading)> {
        let mut shown = Vec::new();
        for object in [ids::DEVICE, ids::FIRMWARE, ids::SOFTWARE, ids::RELEASE, ids::CONFIGURATION, ids::JOB] {
            for instance in self.instances(object) {
                for resource in definition(object).map_or(&[][..], |object| object.resources) {
                    // Time passes by itself; it is no news.
                    let is_clock = (object, resource.id) == (ids::DEVICE, device::CURRENT_TIME);
                    if resource.operations.readable()
                        && !is_clock
                        && let Ok(reading) = self.read(object, instance, resource.id)
                    {
                        shown.push((Path::resource(object, instance, resource.id), reading));
                    }
                }
            }
        }
        shown
    }

    /// Takes a Write of object 26242: what the configuration shall be.
    fn write_configuration(&mut self, entries: &[Entry]) -> Result<(), ObjectError> {
        let before = self.facts.wish.borrow().clone();
        let wish = configuration::wish(before.as_ref(), entries)?;
        if before.as_ref() == Some(&wish) {
            return Ok(());
        }
        // Durable first, as every order.
        self.state.keep_wish(&wish).map_err(|e| {
            tracing::error!(error = %Chain(&e), "a configuration could not be kept, so it was refused");
            refusal(&e)
        })?;
        tracing::info!(generation = wish.generation(), "configuration taken");
        set(&self.facts.wish, Some(wish));
        Ok(())
    }

    /// Takes a Write of object 26244: a job, which is done once however often it comes.
    fn write_job(&mut self, entries: &[Entry]) -> Result<(), ObjectError> {
        let order = jobs::order(entries)?;
        let (id, boot) = (order.id.clone(), self.facts.boot.borrow().clone());
        let mut taken = Err(ObjectError::NotAllowed);
        self.facts.jobs.send_if_modified(|jobs| {
            let Some(ledger) = jobs else { return false };
            let mut after = ledger.clone();
            taken = match after.take(order, &boot) {
                Taken::Known => Ok(()),
                Taken::Busy => Err(ObjectError::Failed(ReasonCode::Busy.as_str().to_owned())),
                // Durable first, as every order.
                Taken::New => self.state.keep_jobs(&after).map_err(|e| {
                    tracing::error!(error = %Chain(&e), "a job could not be kept, so it was refused");
                    refusal(&e)
                }),
            };
            let is_new = taken.is_ok() && after != *ledger;
            if is_new {
                tracing::info!(job = %id, "job taken");
                *ledger = after;
            }
            is_new
        });
        taken
    }

    /// Takes a Write of object 26241 on top of the orders that it leaves standing.
    fn write_release(&mut self, standing: &Orders, entries: &[Entry]) -> Result<(), ObjectError> {
        let mut writes = Vec::with_capacity(entries.len());
        for entry in entries {
            match (entry.path.ids(), &entry.value) {
                ([_, _, resource], Value::String(text)) => writes.push((*resource, text.as_str())),
                _ => return Err(ObjectError::BadValue(format!("{} is not one text", entry.path))),
            }
        }
        let orders = standing.with(writes).map_err(|e| ObjectError::BadValue(e.to_string()))?;
        if orders == *self.facts.orders.borrow() {
            // The service repeats itself at each registration; that is no reason to wear the flash.
            return Ok(());
        }
        // Durable first: the answer to the server is a promise. One small file, so the wait is that of one flush.
        self.state.keep_orders(&orders).map_err(|e| {
            tracing::error!(error = %Chain(&e), "orders of the service could not be kept, so they were refused");
            refusal(&e)
        })?;
        tracing::info!(wish = ?orders.wish, artifacts = ?orders.artifacts.as_ref().map(ToString::to_string), "orders taken");
        set(&self.facts.orders, orders);
        Ok(())
    }
}

impl Objects for DeviceObjects {
    fn objects(&self) -> Vec<u16> {
        let all = [ids::DEVICE, ids::CONNECTIVITY, ids::FIRMWARE, ids::SOFTWARE, ids::RELEASE];
        let told = self.told.as_ref().map(|_| ids::CONFIGURATION);
        let measured = self.facts.metrics.is_there().then_some(ids::METRICS);
        let job = self.job.as_ref().map(|_| ids::JOB);
        all.into_iter().chain(told).chain(measured).chain(job).collect()
    }

    fn instances(&self, object: u16) -> Vec<u16> {
        match object {
            ids::SOFTWARE => self.installed.instances(),
            ids::DEVICE | ids::CONNECTIVITY | ids::FIRMWARE | ids::RELEASE => vec![0],
            ids::CONFIGURATION if self.told.is_some() => vec![0],
            ids::METRICS if self.facts.metrics.is_there() => vec![0],
            ids::JOB if self.job.is_some() => vec![0],
            _ => Vec::new(),
        }
    }

    fn read(&self, object: u16, instance: u16, resource: u16) -> Result<Reading, ObjectError> {
        let status = self.status.as_ref();
        match object {
            ids::DEVICE => device::read(&self.about, status, self.clock.now(), resource),
            ids::CONNECTIVITY => self.connectivity.read().unwrap_or_else(PoisonError::into_inner).read(resource),
            ids::FIRMWARE => firmware::read(status, resource),
            ids::SOFTWARE => self.installed.read(instance, resource),
            ids::RELEASE if resource == ids::release::RECOVERY_KEY => {
                self.about.recovery_key.as_ref().map(|key| text(key.to_json())).ok_or(ObjectError::NotFound)
            }
            ids::CONFIGURATION => configuration::read(self.facts.wish.borrow().as_ref(), self.told.as_ref(), resource),
            ids::METRICS => metrics::read(&self.facts.metrics, resource),
            ids::JOB => match (self.facts.jobs.borrow().as_ref(), &self.job) {
                (Some(ledger), Some(status)) => jobs::read(ledger, (status, &self.facts.probes.borrow()), resource),
                _ => Err(ObjectError::NotFound),
            },
            ids::RELEASE => release::read(&self.facts.orders.borrow(), status, &self.installed, resource),
            _ => Err(ObjectError::NotFound),
        }
    }

    fn write(&mut self, target: &Path, mode: WriteMode, entries: &[Entry]) -> Result<(), ObjectError> {
        match (target.ids(), mode) {
            ([ids::RELEASE, _], WriteMode::Replace) => self.write_release(&Orders::none(), entries),
            ([ids::RELEASE, ..], _) => {
                let orders = self.facts.orders.borrow().clone();
                self.write_release(&orders, entries)
            }
            ([ids::CONFIGURATION, ..], _) if self.told.is_some() => self.write_configuration(entries),
            ([ids::METRICS, ..], _) if self.facts.metrics.is_there() => metrics::write(&self.facts.metrics, entries),
            ([ids::JOB, ..], WriteMode::Partial) if self.job.is_some() => self.write_job(entries),
            // Releases are the only way to change software, and the clock is set by the device itself.
            _ => Err(ObjectError::NotAllowed),
        }
    }

    fn execute(&mut self, object: u16, instance: u16, resource: u16, _arguments: &str) -> Result<(), ObjectError> {
        match (object, instance, resource) {
            (ids::DEVICE, 0, device::REBOOT) => {
                tracing::info!("the service asks for a restart");
                if self.facts.wish_restart() {
                    Ok(())
                } else {
                    Err(ObjectError::Failed("nobody can restart the device".to_owned()))
                }
            }
            (ids::DEVICE, 0, device::FACTORY_RESET) => {
                // Durable first, as every order: the updater hears of it until the state is gone, and this file with it.
                self.state.keep_reset().map_err(|e| {
                    tracing::error!(error = %Chain(&e), "a factory reset could not be kept, so it was refused");
                    refusal(&e)
                })?;
                tracing::warn!("the service asks for a factory reset");
                set(&self.facts.reset, true);
                Ok(())
            }
            _ => Err(ObjectError::NotAllowed),
        }
    }

    fn keep_accounts(&mut self, accounts: &Accounts) -> Result<(), ObjectError> {
        let Some(enrolment) = &self.enrolment else { return Err(ObjectError::NotAllowed) };
        let changed = Enrolment { accounts: accounts.clone(), ..enrolment.clone() };
        // Durable first, as every order.
        self.state.keep_enrolment(&changed).map_err(|e| {
            tracing::error!(error = %Chain(&e), "changed accounts could not be kept, so they were refused");
            refusal(&e)
        })?;
        self.enrolment = Some(changed);
        Ok(())
    }
}

/// What the service is told of an order that could not be kept: the code of a reason.
fn refusal(error: &DurableError) -> ObjectError {
    let code = if error.is_full() { ReasonCode::NoRoom } else { ReasonCode::StorageFailed };
    ObjectError::Failed(code.as_str().to_owned())
}

/// A reading of a single integer.
fn integer(number: i64) -> Reading {
    Reading::Single(Value::Integer(number))
}

/// A reading of a text.
fn text(text: impl ToString) -> Reading {
    Reading::Single(Value::String(text.to_string()))
}

#[cfg(test)]
mod tests;
