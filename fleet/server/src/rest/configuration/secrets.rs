//! `/configuration/secrets`, and the same below groups and devices. Values go in and never come out.

use axum::{Json, extract::State};
use data_encoding::BASE64;
use fleet_api::{ChangeSecret, Page, Secret, SecretEncoding, forms};
use fleet_store::{AccountScope, ConfigurationLevel, SecretRow};
use protocol_types::{EndpointName, GroupName, SealedSecret};
use utoipa_axum::{router::OpenApiRouter, routes};
use zeroize::Zeroizing;

use crate::{
    configuration::sealed_for,
    fleet::Fleet,
    rest::{
        Refusal, Reply,
        body::{Body, Segments},
        caller::{Caller, need},
        configuration::effective::api_level,
    },
};

pub(crate) fn router() -> OpenApiRouter<Fleet> {
    OpenApiRouter::new()
        .routes(routes!(list_account, change_account))
        .routes(routes!(list_group, change_group))
        .routes(routes!(list_device, change_device))
}

/// A secret as the API shows it.
pub(crate) fn view(row: SecretRow) -> Secret {
    let SecretRow { level, application, name, version, changed } = row;
    Secret { level: api_level(&level), level_name: level.name().to_owned(), application, name, version, changed }
}

async fn listed(account: &AccountScope, level: &ConfigurationLevel) -> Reply<Json<Page<Secret>>> {
    let items = account.secrets(level).await?.into_iter().map(view).collect();
    Ok(Json(Page { items, next: None }))
}

/// The bytes of a value.
fn value(text: String, encoding: SecretEncoding) -> Reply<Zeroizing<Vec<u8>>> {
    let bytes = match encoding {
        SecretEncoding::Text => Zeroizing::new(text.into_bytes()),
        SecretEncoding::Base64 => {
            let text = Zeroizing::new(text);
            let decoded = BASE64.decode(text.as_bytes()).map(Zeroizing::new);
            decoded.map_err(|_| Refusal::value("value", "the value is not base64 with padding"))?
        }
    };
    if bytes.is_empty() || bytes.len() > SealedSecret::MAX_BYTES {
        return Err(Refusal::value("value", format!("a secret has 1 to {} bytes", SealedSecret::MAX_BYTES)));
    }
    Ok(bytes)
}

async fn changed(
    (fleet, account): (&Fleet, &AccountScope),
    level: ConfigurationLevel,
    change: ChangeSecret,
) -> Reply<Json<Page<Secret>>> {
    let ChangeSecret { application, name, value: text, encoding } = change;
    let key = (&application, &name);
    let Some(text) = text else {
        account.delete_secret(&level, key, fleet.clock.now()).await?;
        return listed(account, &level).await;
    };
    let value = value(text, encoding)?;
    let sealing = &fleet.authority.sealing;
    let purpose = |version| sealed_for(account.name(), &level, key, version);
    let before = account.sealed_secret(&level, key).await?;
    let version = before.as_ref().map_or(0, |row| row.secret.version);
    // The same value again is no news, and nobody hears whether it was.
    let is_same = before.as_ref().is_some_and(|row| {
        let opened = sealing.unseal(&purpose(version), &row.sealed);
        opened.is_ok_and(|opened| aws_lc_rs::constant_time::verify_slices_are_equal(&opened, &value).is_ok())
    });
    if !is_same {
        let sealed = sealing.seal(&purpose(version + 1), &value).map_err(|error| Refusal::internal(&error))?;
        account.set_secret(&level, key, (version, &sealed), fleet.clock.now()).await?;
    }
    listed(account, &level).await
}

/// The secrets of the account, without their values.
#[utoipa::path(get, path = "/configuration/secrets", tag = "configuration", operation_id = "list_account_secrets",
    security(("token" = ["read"])), responses((status = 200, description = "The secrets", body = forms::SecretPage)))]
async fn list_account(who: Caller<need::Read>) -> Reply<Json<Page<Secret>>> {
    listed(&who.account, &ConfigurationLevel::Account).await
}

/// Gives a secret of the account a value, or takes it away. The value is never shown again.
#[utoipa::path(patch, path = "/configuration/secrets", tag = "configuration", operation_id = "change_account_secret",
    request_body = ChangeSecret, security(("token" = ["operate"])),
    responses((status = 200, description = "The secrets then", body = forms::SecretPage)))]
async fn change_account(
    State(fleet): State<Fleet>,
    who: Caller<need::Operate>,
    body: Body<ChangeSecret>,
) -> Reply<Json<Page<Secret>>> {
    changed((&fleet, &who.account), ConfigurationLevel::Account, body.value).await
}

/// The secrets of a group, without their values.
#[utoipa::path(get, path = "/groups/{name}/configuration/secrets", tag = "configuration", operation_id = "list_group_secrets",
    params(("name" = String, Path, description = "The group")), security(("token" = ["read"])),
    responses((status = 200, description = "The secrets", body = forms::SecretPage)))]
async fn list_group(who: Caller<need::Read>, Segments(name): Segments<GroupName>) -> Reply<Json<Page<Secret>>> {
    listed(&who.account, &ConfigurationLevel::Group(name)).await
}

/// Gives a secret of a group a value, or takes it away. The value is never shown again.
#[utoipa::path(patch, path = "/groups/{name}/configuration/secrets", tag = "configuration",
    operation_id = "change_group_secret", params(("name" = String, Path, description = "The group")),
    request_body = ChangeSecret, security(("token" = ["operate"])),
    responses((status = 200, description = "The secrets then", body = forms::SecretPage)))]
async fn change_group(
    State(fleet): State<Fleet>,
    who: Caller<need::Operate>,
    Segments(name): Segments<GroupName>,
    body: Body<ChangeSecret>,
) -> Reply<Json<Page<Secret>>> {
    changed((&fleet, &who.account), ConfigurationLevel::Group(name), body.value).await
}

/// The secrets of a device alone, without their values.
#[utoipa::path(get, path = "/devices/{endpoint}/configuration/secrets", tag = "configuration",
    operation_id = "list_device_secrets", params(("endpoint" = String, Path, description = "The device")),
    security(("token" = ["read"])), responses((status = 200, description = "The secrets", body = forms::SecretPage)))]
async fn list_device(who: Caller<need::Read>, Segments(endpoint): Segments<EndpointName>) -> Reply<Json<Page<Secret>>> {
    listed(&who.account, &ConfigurationLevel::Device(endpoint)).await
}

/// Gives a secret of a device alone a value, or takes it away. The value is never shown again.
#[utoipa::path(patch, path = "/devices/{endpoint}/configuration/secrets", tag = "configuration",
    operation_id = "change_device_secret", params(("endpoint" = String, Path, description = "The device")),
    request_body = ChangeSecret, security(("token" = ["operate"])),
    responses((status = 200, description = "The secrets then", body = forms::SecretPage)))]
async fn change_device(
    State(fleet): State<Fleet>,
    who: Caller<need::Operate>,
    Segments(endpoint): Segments<EndpointName>,
    body: Body<ChangeSecret>,
) -> Reply<Json<Page<Secret>>> {
    changed((&fleet, &who.account), ConfigurationLevel::Device(endpoint), body.value).await
}
