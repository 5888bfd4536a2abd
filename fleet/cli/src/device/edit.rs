//! `mbl device edit`: the same edit to many devices, as a long operation.

use clap::Args;
use fleet_api::{AttributeValue, ChangeAttributes, ChangeDevice, ChangeTags, Client, DeviceEdit, EditDevices};
use protocol_types::GroupName;

use crate::{device::attribute, filter::refused_filter, operation, request::request_key, session::Session};

#[derive(Debug, Args)]
pub(crate) struct EditArgs {
    #[command(flatten)]
    audience: AudienceArgs,
    #[command(flatten)]
    edit: KindArgs,
    /// Why, for --suspend and --decommission
    #[arg(long, default_value = "", requires = "excluding")]
    reason: String,
    /// Watch until every device had its turn
    #[arg(long)]
    watch: bool,
}

#[derive(Debug, Args)]
#[group(required = true, multiple = false)]
struct AudienceArgs {
    /// Every device of the account
    #[arg(long)]
    all: bool,
    /// The devices in a group
    #[arg(long, value_name = "NAME")]
    group: Option<GroupName>,
    /// The devices that this filter is true for when their turn comes
    #[arg(long, value_name = "FILTER")]
    filter: Option<String>,
}

/// One kind of edit; labels may be several.
#[expect(clippy::struct_excessive_bools, reason = "flags of a command line, of which one is given")]
#[derive(Debug, Args)]
#[group(id = "kind", required = true, multiple = true)]
struct KindArgs {
    /// An attribute as KEY=VALUE, may be given several times
    #[arg(long = "attribute", value_name = "KEY=VALUE", value_parser = attribute)]
    attributes: Vec<(String, AttributeValue)>,
    /// Key of an attribute to remove, may be given several times
    #[arg(long, value_name = "KEY")]
    without: Vec<String>,
    /// A tag to add, may be given several times
    #[arg(long, value_name = "TAG")]
    tag: Vec<String>,
    /// A tag to take away, may be given several times
    #[arg(long, value_name = "TAG")]
    untag: Vec<String>,
    /// The note
    #[arg(long)]
    note: Option<String>,
    /// Make them listed members of this group
    #[arg(long, value_name = "NAME", conflicts_with_all = LABELS)]
    add_to_group: Option<GroupName>,
    /// Take them from the listed members of this group
    #[arg(long, value_name = "NAME", conflicts_with_all = LABELS, conflicts_with = "add_to_group")]
    remove_from_group: Option<GroupName>,
    /// Keep them out
    #[arg(long, group = "excluding", conflicts_with_all = LABELS,
        conflicts_with_all = ["add_to_group", "remove_from_group"])]
    suspend: bool,
    /// Let them take part again
    #[arg(long, conflicts_with_all = LABELS, conflicts_with_all = ["add_to_group", "remove_from_group", "suspend"])]
    resume: bool,
    /// Take them out of service for good
    #[arg(long, group = "excluding", conflicts_with_all = LABELS,
        conflicts_with_all = ["add_to_group", "remove_from_group", "suspend", "resume"])]
    decommission: bool,
}

const LABELS: [&str; 5] = ["attributes", "without", "tag", "untag", "note"];

impl EditArgs {
    fn wanted(self) -> EditDevices {
        let filter = match (self.audience.group, self.audience.filter) {
            (Some(group), _) => format!("group = \"{group}\""),
            (None, filter) => filter.unwrap_or_default(),
        };
        let KindArgs {
            attributes,
            without,
            tag,
            untag,
            note,
            add_to_group,
            remove_from_group,
            suspend,
            resume,
            decommission,
        } = self.edit;
        let edit = match (add_to_group, remove_from_group) {
            (Some(name), _) => DeviceEdit::AddToGroup(name),
            (None, Some(name)) => DeviceEdit::RemoveFromGroup(name),
            (None, None) if suspend => DeviceEdit::Suspend(self.reason),
            (None, None) if resume => DeviceEdit::Resume,
            (None, None) if decommission => DeviceEdit::Decommission(self.reason),
            (None, None) => DeviceEdit::Change(ChangeDevice {
                note,
                attributes: ChangeAttributes { set: attributes.into_iter().collect(), remove: without },
                tags: ChangeTags { add: tag, remove: untag },
            }),
        };
        EditDevices { filter, edit }
    }
}

pub(crate) async fn run(client: &Client, args: EditArgs, session: &Session) -> anyhow::Result<()> {
    let is_watched = args.watch;
    let wanted = args.wanted();
    let key = request_key()?;
    let operation =
        client.edit_devices(&wanted, Some(&key)).await.map_err(|error| refused_filter(error, Some(&wanted.filter)))?;
    operation::begun(client, &operation, is_watched, session).await
}
