//! `mbl audit`: what was done in the account and by whom; as a file that anybody can verify without the service.

use std::{
    fs::{File, OpenOptions},
    io::{BufRead as _, BufReader, Read as _, Write as _},
    os::unix::fs::OpenOptionsExt as _,
    path::{Path, PathBuf},
};

use anyhow::Context as _;
use clap::Subcommand;
use fleet_api::{AUDIT_LINE_BYTES, AuditChain, AuditExportQuery, PageQuery};
use futures_util::StreamExt as _;
use serde_json::json;

use crate::{
    failure::{Exit, Failure},
    session::{Session, service_error},
    words::time,
};

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// List what was done, oldest first
    List {
        /// Only what this principal did, as in `service/ci`
        #[arg(long, value_name = "PRINCIPAL")]
        principal: Option<String>,
    },
    /// Write the log into a file, a line an entry, and verify it
    Export {
        /// The file
        file: PathBuf,
        /// Begin after this entry
        #[arg(long, value_name = "NUMBER")]
        after: Option<u64>,
    },
    /// Verify a file without the service: that no entry was changed, replaced, moved or taken out
    Verify {
        /// The file
        file: PathBuf,
        /// Hash of the last entry, as it was noted elsewhere: shows that nothing was cut off the end
        #[arg(long, value_name = "HASH")]
        head: Option<String>,
    },
}

pub(crate) async fn run(command: Command, session: &Session) -> anyhow::Result<()> {
    match command {
        Command::List { principal } => list(principal.as_deref(), session).await,
        Command::Export { file, after } => export(&file, after, session).await,
        Command::Verify { file, head } => verify(&file, head.as_deref(), session),
    }
}

async fn list(principal: Option<&str>, session: &Session) -> anyhow::Result<()> {
    let client = session.client()?;
    let mut query = PageQuery::default();
    loop {
        let page = client.audit(&query).await.map_err(service_error)?;
        for record in page.items {
            let entry = &record.entry;
            if principal.is_some_and(|principal| principal != entry.principal) {
                continue;
            }
            let more = match entry.left_out() {
                0 => String::new(),
                more => format!(" (and {more} more refusals)"),
            };
            let text = format!(
                "{} {} {} from {} {} {} {}{more}",
                entry.number,
                time(entry.time),
                entry.principal,
                if entry.address.is_empty() { "-" } else { &entry.address },
                entry.action,
                entry.resource,
                entry.outcome
            );
            session.printer.line(&record, text)?;
        }
        match page.next {
            Some(next) => query.cursor = Some(next),
            None => return Ok(()),
        }
    }
}

async fn export(file: &Path, after: Option<u64>, session: &Session) -> anyhow::Result<()> {
    let pieces = session.client()?.export_audit(&AuditExportQuery { after }).await.map_err(service_error)?;
    let mut pieces = std::pin::pin!(pieces);
    let cannot = || format!("cannot write {}", file.display());
    let options = OpenOptions::new().create(true).truncate(true).write(true).mode(0o600).open(file);
    let mut written = options.with_context(cannot)?;
    while let Some(piece) = pieces.next().await {
        written.write_all(&piece.map_err(service_error)?).with_context(cannot)?;
    }
    written.sync_all().with_context(cannot)?;
    verify(file, None, session)
}

fn verify(file: &Path, head: Option<&str>, session: &Session) -> anyhow::Result<()> {
    let opened = File::open(file).with_context(|| format!("cannot read {}", file.display()))?;
    let mut lines = BufReader::new(opened);
    let mut chain = AuditChain::default();
    for number in 1_u64.. {
        let mut line = String::new();
        let most = u64::try_from(AUDIT_LINE_BYTES).unwrap_or(u64::MAX);
        let read = (&mut lines).take(most).read_line(&mut line);
        if read.with_context(|| format!("cannot read line {number} of {}", file.display()))? == 0 {
            break;
        }
        let taken = line.strip_suffix('\n').ok_or(fleet_api::AuditFault::Form).and_then(|line| chain.take(line));
        taken.map_err(|fault| {
            Failure::new(Exit::Failed, format!("line {number} of {}: {fault}", file.display()))
                .hint("the log was tampered with, or the file is not whole: export it again")
        })?;
    }
    let Some((account, last, hash)) = chain.head() else {
        return Err(Failure::new(Exit::Failed, format!("{} holds no entry", file.display())).into());
    };
    if head.is_some_and(|head| head != hash) {
        let message = format!("the last entry of {} is {last} with hash {hash}, not the one named", file.display());
        return Err(Failure::new(Exit::Failed, message).hint("entries were cut off the end, or added to it").into());
    }
    let first = chain.first().unwrap_or(last);
    let value = json!({ "account": account, "first": first, "last": last, "head": hash });
    session.printer.data(&value, format_args!("{account} entries {first} to {last} are whole, head {hash}"))
}
