//! `/authorities`: whose signature makes a factory certificate of the account; `/service-authority`: whom clients must trust.

use axum::{
    Json,
    extract::State,
    http::{StatusCode, header},
    response::IntoResponse,
};
use fleet_api::{Authority, Page, PageQuery, UploadAuthority, forms};
use fleet_store::{AuthorityRow, NewAuthority};
use protocol_types::{Digest, UnixSeconds};
use rustls_pki_types::CertificateDer;
use utoipa_axum::{router::OpenApiRouter, routes};
use x509_parser::prelude::{FromDer as _, X509Certificate};

use crate::{
    device_trust,
    fleet::Fleet,
    rest::{
        Refusal, Reply,
        body::{Body, Parameters, Segments},
        caller::{Caller, need},
        paging::Paging,
    },
    tls,
};

const NAME_CHARACTERS: usize = 100;
const CERTIFICATE_BYTES: usize = 16 * 1024;

pub(crate) fn router() -> OpenApiRouter<Fleet> {
    OpenApiRouter::new()
        .routes(routes!(list, upload))
        .routes(routes!(show))
        .routes(routes!(revoke))
        .routes(routes!(service_authority))
}

fn view(row: AuthorityRow) -> Authority {
    Authority {
        id: row.id,
        name: row.name,
        subject: row.subject,
        fingerprint: row.fingerprint,
        not_after: row.not_after,
        created: row.created,
        revoked: row.revoked,
    }
}

/// The factory authorities of the account, revoked ones too.
#[utoipa::path(get, path = "/authorities", tag = "authorities", operation_id = "list_authorities", params(PageQuery),
    security(("token" = ["read"])), responses((status = 200, description = "A page of authorities", body = forms::AuthorityPage)))]
async fn list(who: Caller<need::Read>, Parameters(query): Parameters<PageQuery>) -> Reply<Json<Page<Authority>>> {
    let paging = Paging::read(&query)?;
    let rows = who.account.authorities_after(paging.after_number()?, paging.rows()).await?;
    Ok(Json(paging.page(rows, |row| row.number.to_string(), view)))
}

/// One factory authority.
#[utoipa::path(get, path = "/authorities/{id}", tag = "authorities", operation_id = "show_authority",
    params(("id" = String, Path, description = "The authority's id")),
    security(("token" = ["read"])), responses((status = 200, description = "The authority", body = Authority)))]
async fn show(who: Caller<need::Read>, Segments(id): Segments<String>) -> Reply<Json<Authority>> {
    Ok(Json(view(who.account.authority(&id).await?)))
}

/// Uploads a factory authority. Its certificates count only for subjects that name this account.
#[utoipa::path(post, path = "/authorities", tag = "authorities", operation_id = "upload_authority", request_body = UploadAuthority,
    params(("idempotency-key" = Option<String>, Header, min_length = 1, max_length = 128,
        description = "Makes the request safe to repeat")),
    security(("token" = ["enrol"])), responses((status = 201, description = "The authority", body = Authority)))]
async fn upload(
    State(fleet): State<Fleet>,
    who: Caller<need::Enrol>,
    body: Body<UploadAuthority>,
) -> Reply<(StatusCode, Json<Authority>)> {
    let now = fleet.clock.now();
    let authority = understand(body.value, now)?;
    let row = who.account.add_authority(&authority, body.key.as_ref(), now).await?;
    device_trust::reload_factories(&fleet).await?;
    Ok((StatusCode::CREATED, Json(view(row))))
}

/// Lets a factory authority enrol nobody from now on. Devices that it enrolled before stay.
#[utoipa::path(post, path = "/authorities/{id}/revoke", tag = "authorities", operation_id = "revoke_authority",
    params(("id" = String, Path, description = "The authority's id")),
    security(("token" = ["enrol"])), responses((status = 200, description = "The authority", body = Authority)))]
async fn revoke(
    State(fleet): State<Fleet>,
    who: Caller<need::Enrol>,
    Segments(id): Segments<String>,
) -> Reply<Json<Authority>> {
    let row = who.account.revoke_authority(&id, fleet.clock.now()).await?;
    device_trust::reload_factories(&fleet).await?;
    Ok(Json(view(row)))
}

/// The certificate that everybody who talks to the service must trust, as PEM.
#[utoipa::path(get, path = "/service-authority", tag = "authorities", operation_id = "service_authority",
    responses((status = 200, description = "A certificate", content_type = "application/x-pem-file", body = String)))]
async fn service_authority(State(fleet): State<Fleet>) -> impl IntoResponse {
    ([(header::CONTENT_TYPE, "application/x-pem-file")], fleet.authority.service.certificate_pem().to_owned())
}

/// Reads a PEM certificate and checks that it can sign device certificates.
fn understand(wanted: UploadAuthority, now: UnixSeconds) -> Reply<NewAuthority> {
    if !(1..=NAME_CHARACTERS).contains(&wanted.name.chars().count()) {
        return Err(Refusal::value("name", format!("a name has 1 to {NAME_CHARACTERS} characters")));
    }
    let refuse = |detail: &str| Refusal::value("certificate", detail);
    if wanted.certificate.len() > CERTIFICATE_BYTES {
        return Err(refuse(&format!("a certificate has at most {CERTIFICATE_BYTES} bytes")));
    }
    let blocks = pem::parse_many(&wanted.certificate).map_err(|_| refuse("this is no PEM"))?;
    let [block] = blocks.as_slice() else { return Err(refuse("send exactly one PEM block")) };
    if block.tag() != "CERTIFICATE" {
        return Err(refuse("send a certificate, and keep its key to yourself"));
    }
    let der = block.contents();
    let parsed = X509Certificate::from_der(der).ok().filter(|(rest, _)| rest.is_empty());
    let Some((_, certificate)) = parsed else { return Err(refuse("this is no X.509 certificate")) };
    if !certificate.is_ca() {
        return Err(refuse("the certificate may not sign others: its basic constraints do not say CA"));
    }
    let signs = certificate.key_usage().ok().flatten().is_none_or(|usage| usage.value.key_cert_sign());
    if !signs || tls::check_authority(CertificateDer::from(der.to_vec())).is_err() {
        return Err(refuse("the certificate cannot be used to verify others"));
    }
    let not_after = u64::try_from(certificate.validity().not_after.timestamp()).map_or(UnixSeconds(0), UnixSeconds);
    if not_after <= now {
        return Err(refuse("the certificate has expired"));
    }
    let subject: String = certificate.subject().to_string().chars().filter(|c| !c.is_control()).take(300).collect();
    Ok(NewAuthority {
        name: wanted.name,
        subject,
        fingerprint: Digest::of(der).hex(),
        certificate: der.to_vec(),
        not_after,
    })
}
