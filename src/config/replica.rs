//! Reads `[replicas.NAME]`.

use bytesize::ByteSize;
use copyhold_core::domain::{InvalidName, ReplicaName};
use secrecy::ExposeSecret as _;
use url::Url;

use super::{
    Credentials, Existing, NetworkEnvironment, Provider, Proxy, ReplicaSettings, Secret, StoreOverrides, Trust, chain,
    endpoint,
    invalid_value::InvalidValue,
    position::{Position, Positioned},
    problem::Problem,
    reader::{Reader, Section},
    value_types::{choice, size_text, within},
};

/// A replica as far as it could be read, for the checks across all of them.
pub(super) struct ReadReplica {
    pub(super) name: String,
    /// Of the section.
    pub(super) position: Position,
    /// Endpoint and bucket, if both are valid, with the place of the latter.
    pub(super) location: Option<Positioned<(Url, String)>>,
    pub(super) readable: Option<Positioned<bool>>,
    /// `None` if anything about it is wrong.
    pub(super) replica: Option<ReplicaSettings>,
}

/// Reads `[replicas.NAME]`.
pub(super) fn read(name: String, mut section: Section<'_>) -> ReadReplica {
    let valid_name = check_name(&name, &section);
    let insecure = section.get::<bool>("insecure").is_some_and(|insecure| insecure.value);
    let endpoint = section
        .need_with("endpoint", r#""https://s3.example.com""#, |text: String| endpoint::endpoint(&text, insecure));
    let bucket = section.need_with("bucket", r#""photos""#, endpoint::bucket);
    let region = section.get_with("region", |text: String| printable(text, "the name of a region"));
    let path_style = section.get::<bool>("path_style");
    let credentials = credentials(&mut section);
    let existing = section.get_with("existing", |word: String| {
        choice(&[("adopt", Existing::Adopt), ("overwrite", Existing::Overwrite)], &word)
    });
    let readable = section.get::<bool>("read");
    let storage_class = section.get_with("storage_class", |text: String| printable(text, "a storage class"));
    let provider = section.get_with("provider", |word: String| choice(&Provider::ALL.map(|p| (p.as_str(), p)), &word));
    let facts = facts(&mut section);
    let reader = section.reader();
    let ca_file = section.get_with("ca_file", |path: String| {
        let path = reader.sources.resolve(&path);
        Trust::of_ca_file(&path)
            .map_err(|(what, todo)| InvalidValue::new(format!("names the file {}, which {what}", path.display()), todo))
    });

    let position = section.position().clone();
    let both = endpoint.zip(bucket);
    let location = both.map(|(endpoint, bucket)| bucket.map(|bucket| (endpoint.value, bucket)));
    if let (Some(location), Some(Positioned { value: false, position })) = (&location, &path_style)
        && let Some(why) = endpoint::no_host_name(&location.value.0, &location.value.1)
    {
        section.note_at(position, "path_style", &format!("is false, but {why}"), "set it to true");
    }
    section.finish();
    let path_style = path_style.is_none_or(|path_style| path_style.value);
    let location_of = location.as_ref().map(|location| &location.value);
    let way = location_of.map(|(endpoint, bucket)| {
        Transport::to(
            reader,
            &if path_style { endpoint.clone() } else { endpoint::of_bucket(endpoint, bucket) },
            ca_file,
        )
    });
    if matches!(credentials, Some(Credentials::Ambient)) {
        // The services that the chain asks have no ca_file.
        reader.note_all(reader.trust().err().into_iter().collect());
        reader.note_all(chain::problems(&reader.sources.environment));
    }

    let replica = (|| {
        let (endpoint, bucket) = location.clone()?.value;
        let Transport { proxy, trust, surroundings } = way?;
        Some(ReplicaSettings {
            name: valid_name?,
            region: region.map_or_else(|| endpoint::region_of(&endpoint), |region| region.value),
            provider: provider.map_or_else(|| Provider::of_endpoint(&endpoint), |provider| provider.value),
            facts,
            endpoint,
            bucket,
            path_style,
            credentials: credentials?,
            existing: existing.map(|existing| existing.value),
            read: readable.as_ref().is_none_or(|read| read.value),
            storage_class: storage_class.map(|class| class.value),
            trust,
            proxy,
            surroundings,
        })
    })();
    ReadReplica { name, position, location, readable, replica }
}

/// How requests get to a store.
struct Transport {
    proxy: Option<Proxy>,
    trust: Trust,
    surroundings: NetworkEnvironment,
}

impl Transport {
    /// `to`: where requests are sent. Notes what is wrong with the environment only if this store needs it.
    fn to(reader: &Reader, to: &Url, ca_file: Option<Positioned<Trust>>) -> Self {
        fn noted<T: Default>(reader: &Reader, found: Result<T, Problem>) -> T {
            found.unwrap_or_else(|problem| {
                reader.note_all(vec![problem]);
                T::default()
            })
        }
        let proxy = noted(reader, reader.proxies.before(to).map_err(Problem::from));
        let trusts_others = to.scheme() == "https" && ca_file.is_none() || proxy.as_ref().is_some_and(Proxy::is_https);
        let of_environment = reader.trust();
        let of_environment =
            if trusts_others { noted(reader, of_environment) } else { of_environment.unwrap_or_default() };
        Self {
            proxy,
            trust: ca_file.map_or_else(|| of_environment.clone(), |ca_file| ca_file.value),
            surroundings: NetworkEnvironment { proxies: reader.proxies.clone(), trust: of_environment },
        }
    }
}

/// What is known of this store alone.
fn facts(section: &mut Section<'_>) -> StoreOverrides {
    // Cannot fail: each was just found to be small and not negative.
    let small = |number: Positioned<i64>| u32::try_from(number.value).expect("a small number");
    let size = |size: Positioned<ByteSize>| size.value.as_u64();
    let parts = section.get_with("max_parts", within(1..=10_000, |parts: i64| parts.to_string()));
    // No part that has another behind it may be smaller than 5 MiB.
    let put = section.get_with("max_put", within(ByteSize::mib(5)..=ByteSize::gib(5), size_text));
    let object = section.get_with("max_object", within(ByteSize::mib(5)..=ByteSize::gib(50_000), size_text));
    let key_bytes = section.get_with("max_key_bytes", within(1..=1024, |bytes: i64| bytes.to_string()));
    let checks_md5 = section.get::<bool>("checks_md5");
    let md5_etags = section.get::<bool>("md5_etags");
    let altered =
        section.get_with("altered_metadata", |word: String| choice(&[("refuse", false), ("accept", true)], &word));
    // One to read and one to write.
    let connections =
        section.get_with("max_connections", within(2..=10_000, |connections: i64| connections.to_string()));
    StoreOverrides {
        max_parts: parts.map(small),
        max_put_bytes: put.map(size),
        max_object_bytes: object.map(size),
        max_key_bytes: key_bytes.map(|bytes| small(bytes) as usize),
        checks_md5: checks_md5.map(|checks| checks.value),
        md5_etags: md5_etags.map(|etags| etags.value),
        accepts_altered_metadata: altered.map(|altered| altered.value),
        max_connections: connections.map(|connections| small(connections) as usize),
    }
}

fn check_name(name: &str, section: &Section<'_>) -> Option<ReplicaName> {
    let (what, todo) = match ReplicaName::new(name) {
        Ok(name) => return Some(name),
        Err(InvalidName::Spelling) => (
            "is no name for a replica, because it becomes part of a column's",
            "begin with a lower-case letter, then up to 30 of a-z, 0-9 and _",
        ),
        Err(InvalidName::Taken) => ("has the name of a column that the table has anyway", "give it another name"),
    };
    section.note(what, todo);
    None
}

fn credentials(section: &mut Section<'_>) -> Option<Credentials> {
    const KEYS: [&str; 2] = ["access_key_id", "secret_access_key"];
    let has_keys = KEYS.map(|key| section.has(key));
    let has_word = section.has("credentials");
    let ambient = section.get_with("credentials", |word: String| choice(&[("ambient", ())], &word));
    let wants_ambient = ambient.is_some();
    if let Some(Positioned { position, .. }) = ambient
        && has_keys.contains(&true)
    {
        let todo = "remove credentials to use the keys, or the keys to use the AWS chain";
        section.note_at(&position, "credentials", "and keys exclude each other", todo);
    }
    if has_keys == [false, false] {
        if !has_word && !section.is_broken() {
            let todo = r#"set access_key_id and secret_access_key, or credentials = "ambient" for the AWS chain"#;
            section.note("has no credentials", todo);
        }
        // Asked for all the same, so that the report can suggest them.
        let _: [Option<Positioned<Secret>>; 2] = KEYS.map(|key| section.get(key));
        return wants_ambient.then_some(Credentials::Ambient);
    }
    let [id, secret] = KEYS.map(|key| section.need_with(key, r#"{ env = "NAME" }"#, key_text));
    Some(Credentials::Keys { access_key_id: id?.value, secret_access_key: secret?.value })
}

/// A stray blank or a second line would only show as a refused signature.
fn key_text(key: Secret) -> Result<Secret, InvalidValue> {
    const WHAT: &str = "contains blanks, line breaks or other characters that no key has";
    let is_key = |text: &str| text.chars().all(|c| c.is_ascii_graphic());
    if is_key(key.expose_secret()) {
        return Ok(key.checked(move |text| if is_key(text) { Ok(()) } else { Err(WHAT.to_owned()) }));
    }
    Err(InvalidValue::new(WHAT, "give it the key alone"))
}

fn printable(text: String, what: &str) -> Result<String, InvalidValue> {
    if text.chars().all(|c| c.is_ascii_graphic()) {
        return Ok(text);
    }
    Err(InvalidValue::new(
        format!("is {text:?}, which cannot be {what}"),
        "use letters, digits and punctuation, no blanks",
    ))
}
