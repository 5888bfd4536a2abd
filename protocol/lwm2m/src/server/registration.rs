//! What a client says when it registers or updates (OMA LwM2M 1.1 section 6.2). Never decides whether it may.

use protocol_types::EndpointName;

use crate::{
    coap::{Code, ContentFormat, Message},
    formats::{FormatError, Link, link},
    object::{Path, accounts::are_transports},
};

/// What a client that names no lifetime gets (section 6.2), in seconds.
const USUAL_LIFETIME: u32 = 86_400;
/// Versions whose registrations this crate understands. A client that offers a later one asks again with one of these.
const VERSIONS: [&str; 2] = ["1.0", "1.1"];

/// A client's registration.
#[derive(Clone, Debug, PartialEq)]
pub struct Registration {
    /// The client's name; absent if it leaves that to its certificate.
    pub endpoint: Option<EndpointName>,
    /// Seconds until the registration expires without an update.
    pub lifetime: u32,
    /// The version of LwM2M that it speaks, for example `1.1`.
    pub version: String,
    /// Transports, for example `T`; `U` if it does not say.
    pub binding: String,
    /// Whether it sleeps (`Q`).
    pub queue_mode: bool,
    /// The objects and instances that it has.
    pub paths: Vec<Path>,
    /// The links as they came, with their attributes.
    pub links: Vec<Link>,
}

/// What an update changes; absent means unchanged.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct RegistrationUpdate {
    /// The new lifetime in seconds.
    pub lifetime: Option<u32>,
    /// The new binding.
    pub binding: Option<String>,
    /// The new objects and instances.
    pub links: Option<Vec<Link>>,
}

/// A registration or update that cannot be understood.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RegistrationError {
    /// A query is missing, has a value out of range, or is not known: 4.00.
    #[error("the query `{0}` is missing or not valid")]
    Query(String),
    /// The version is not spoken here: 4.12.
    #[error("version {0} of LwM2M is not spoken here")]
    Version(String),
    /// The links cannot be read: 4.00, or 4.15 if they are in another format.
    #[error("the links cannot be read")]
    Links(#[source] FormatError),
}

impl RegistrationError {
    /// The response code of the refusal.
    pub const fn code(&self) -> Code {
        match self {
            Self::Version(_) => Code::PRECONDITION_FAILED,
            Self::Query(_) => Code::BAD_REQUEST,
            Self::Links(fault) => fault.code(),
        }
    }
}

impl Registration {
    /// Reads `POST /rd`. A query that the standard does not name is refused, as section 6.2 asks.
    pub fn read(request: &Message) -> Result<Self, RegistrationError> {
        let mut registration = Self {
            endpoint: None,
            lifetime: USUAL_LIFETIME,
            version: String::new(),
            binding: "U".to_owned(),
            queue_mode: false,
            paths: Vec::new(),
            links: links(request)?.unwrap_or_default(),
        };
        for (name, value) in request.queries() {
            match name {
                "ep" => registration.endpoint = Some(endpoint(value)?),
                "lt" => registration.lifetime = lifetime(value)?,
                "lwm2m" => registration.version = value.to_owned(),
                "b" => registration.binding = binding(value)?,
                "Q" => registration.queue_mode = true,
                "sms" => {}
                _ => return Err(unknown(name)),
            }
        }
        if !VERSIONS.contains(&registration.version.as_str()) {
            let version = registration.version.chars().take(8).filter(char::is_ascii_graphic).collect();
            return Err(RegistrationError::Version(version));
        }
        registration.paths = paths(&registration.links);
        Ok(registration)
    }

    /// Takes over what an update changes.
    pub fn apply(&mut self, update: &RegistrationUpdate) {
        self.lifetime = update.lifetime.unwrap_or(self.lifetime);
        if let Some(binding) = &update.binding {
            self.binding.clone_from(binding);
        }
        if let Some(links) = &update.links {
            self.paths = paths(links);
            self.links.clone_from(links);
        }
    }
}

impl RegistrationUpdate {
    /// Reads `POST /rd/LOCATION`.
    pub fn read(request: &Message) -> Result<Self, RegistrationError> {
        let mut update = Self { links: links(request)?, ..Self::default() };
        for (name, value) in request.queries() {
            match name {
                "lt" => update.lifetime = Some(lifetime(value)?),
                "b" => update.binding = Some(binding(value)?),
                "Q" | "sms" => {}
                _ => return Err(unknown(name)),
            }
        }
        Ok(update)
    }
}

/// Reads the name of an `ep` query.
pub(super) fn endpoint(value: &str) -> Result<EndpointName, RegistrationError> {
    EndpointName::new(value).map_err(|_| RegistrationError::Query("ep".to_owned()))
}

fn lifetime(value: &str) -> Result<u32, RegistrationError> {
    let digits = value.bytes().all(|b| b.is_ascii_digit());
    value.parse().ok().filter(|lifetime| digits && *lifetime > 0).ok_or(RegistrationError::Query("lt".to_owned()))
}

/// One or more of the transports U, T, S and N, each once (section 6.2); 1.0 writes queue mode here too.
fn binding(value: &str) -> Result<String, RegistrationError> {
    if are_transports(value, "UTSNQ") { Ok(value.to_owned()) } else { Err(RegistrationError::Query("b".to_owned())) }
}

fn unknown(name: &str) -> RegistrationError {
    RegistrationError::Query(name.chars().take(32).filter(char::is_ascii_graphic).collect())
}

fn links(request: &Message) -> Result<Option<Vec<Link>>, RegistrationError> {
    if request.payload.is_empty() {
        return Ok(None);
    }
    match request.content_format() {
        Some(ContentFormat::LINK) => link::parse(&request.payload).map(Some).map_err(RegistrationError::Links),
        other => Err(RegistrationError::Links(FormatError::Unsupported(other.unwrap_or(ContentFormat::TEXT)))),
    }
}

/// The objects and instances below the root that the links name, `/` if they name none.
fn paths(links: &[Link]) -> Vec<Path> {
    let root =
        links.iter().find(|link| link.attribute("rt") == Some("oma.lwm2m")).map_or("/", |link| link.target.as_str());
    let named = links.iter().filter_map(|link| link.path(root));
    named.filter(|path| (1..=2).contains(&path.ids().len())).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn register(queries: &[&str], payload: &str) -> Message {
        let message = queries.iter().fold(Message::new(Code::POST).path("/rd"), |message, query| message.query(query));
        message.content(ContentFormat::LINK, payload)
    }

    #[test]
    fn a_registration_names_client_lifetime_and_paths() {
        let request = register(
            &["ep=gate-42", "lt=300", "lwm2m=1.1", "b=T"],
            r#"</x>;rt="oma.lwm2m",</x/1/0>,</x/3>;ver=1.1,</x/3/0/1>"#,
        );
        let registration = Registration::read(&request).unwrap();
        assert_eq!(registration.endpoint.unwrap().as_str(), "gate-42");
        assert_eq!((registration.lifetime, registration.binding.as_str(), registration.queue_mode), (300, "T", false));
        assert_eq!(registration.paths, [Path::instance(1, 0), Path::object(3)]);
    }

    #[test]
    fn a_registration_that_breaks_a_rule_is_refused_with_its_code() {
        for (queries, payload, code) in [
            (&["ep=gate-42", "lwm2m=1.2"][..], "</1/0>", Code::PRECONDITION_FAILED),
            (&["ep=gate-42"], "</1/0>", Code::PRECONDITION_FAILED),
            (&["ep=../x", "lwm2m=1.1"], "</1/0>", Code::BAD_REQUEST),
            (&["ep=a", "lwm2m=1.1", "lt=0"], "</1/0>", Code::BAD_REQUEST),
            (&["ep=a", "lwm2m=1.1", "lt=+9"], "</1/0>", Code::BAD_REQUEST),
            (&["ep=a", "lwm2m=1.1", "b=TT"], "</1/0>", Code::BAD_REQUEST),
            (&["ep=a", "lwm2m=1.1", "x=1"], "</1/0>", Code::BAD_REQUEST),
            (&["ep=a", "lwm2m=1.1"], "</1/0", Code::BAD_REQUEST),
        ] {
            assert_eq!(Registration::read(&register(queries, payload)).unwrap_err().code(), code, "{queries:?}");
        }
        let text = register(&["ep=a", "lwm2m=1.1"], "x").content(ContentFormat::TEXT, "</1/0>");
        assert_eq!(Registration::read(&text).unwrap_err().code(), Code::UNSUPPORTED_CONTENT_FORMAT);
    }

    #[test]
    fn an_update_without_queries_changes_nothing() {
        let mut registration = Registration::read(&register(&["ep=a", "lwm2m=1.1"], "</1/0>")).unwrap();
        let before = registration.clone();
        registration.apply(&RegistrationUpdate::read(&Message::new(Code::POST).path("/rd/x")).unwrap());
        assert_eq!(registration, before);
        registration.apply(&RegistrationUpdate::read(&register(&["lt=60"], "</3/0>")).unwrap());
        assert_eq!((registration.lifetime, registration.paths), (60, vec![Path::instance(3, 0)]));
    }
}
