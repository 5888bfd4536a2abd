//! The requests by which a bootstrap server configures a client, in their order (LwM2M 1.1 section 6.1). Never sends them.

use std::collections::VecDeque;

use super::{BootstrapPlan, RequestError, operation::at};
use crate::{
    coap::{Code, Message},
    formats::{self, Entry},
    object::Path,
};

/// What is still to be sent; the finish comes last.
pub(super) fn requests(plan: &BootstrapPlan) -> Result<VecDeque<Message>, RequestError> {
    let mut requests: VecDeque<_> = plan.delete.iter().map(|path| at(Code::DELETE, path)).collect();
    let security = plan.accounts.security.iter().map(|(id, account)| (Path::instance(0, *id), account.entries(*id)));
    let servers = plan.accounts.servers.iter().map(|(id, account)| (Path::instance(1, *id), account.entries(*id)));
    for (path, entries) in security.chain(servers) {
        requests.push_back(write(plan, &path, &entries)?);
    }
    requests.push_back(Message::new(Code::POST).path("bs"));
    Ok(requests)
}

fn write(plan: &BootstrapPlan, path: &Path, entries: &[Entry]) -> Result<Message, RequestError> {
    let payload = formats::encode(plan.format, path, entries).map_err(RequestError::Encode)?;
    Ok(at(Code::PUT, path).content(plan.format, payload))
}
