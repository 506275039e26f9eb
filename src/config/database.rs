//! Reads the section `[database]`.

use std::{path::PathBuf, sync::Arc};

use copyhold_core::{
    domain::{InvalidName, SchemaName},
    regular_file,
};
use copyhold_db::database_url::has_password;
use copyhold_s3::settings::AUTHORITIES_AT_MOST_BYTES;
use secrecy::ExposeSecret as _;

use super::{
    ConnectionSettings, Secret, Wakeup, database_url,
    env_overrides::Environment,
    invalid_value::InvalidValue,
    position::{Position, Positioned},
    problem::Problem,
    reader::Section,
    secret,
    value_types::choice,
};

const EXAMPLE: &str = r#""postgres://copyhold@db.internal/app?sslmode=verify-full""#;

/// Reads `[database]`.
pub(super) fn read(mut section: Section<'_>) -> Option<ConnectionSettings> {
    let reader = section.reader();
    let insecure = section.get::<bool>("insecure").is_some_and(|insecure| insecure.value);
    let rules = Arc::new(database_url::Rules::of(&reader.sources, insecure));
    let unreadable = files_of_variables(&reader.sources.environment);
    let would_hang = !unreadable.is_empty();
    reader.note_all(unreadable);
    let check = |url: Secret| {
        // To check a URL, the client library reads these files.
        if would_hang {
            return Ok(url);
        }
        database_url::check(url.expose_secret(), &rules)?;
        let rules = Arc::clone(&rules);
        Ok(url.checked(move |text| database_url::check(text, &rules).map_err(|invalid| invalid.what)))
    };
    let url = section.need_with("url", EXAMPLE, check);
    let listen_url = section.get_with("listen_url", check);
    let password = section.get_with("password_file", |path: String| {
        Ok(secret::of_file(reader.sources.resolve(&path))?.named("database.password_file"))
    });
    let schema = section.get_with("schema", |name: String| schema_name(&name));
    let ways = [("auto", Wakeup::Auto), ("notify", Wakeup::Notify), ("poll", Wakeup::Poll)];
    let wakeup = section.get_with("wakeup", |word: String| choice(&ways, &word));

    if let Some(password) = &password {
        for (name, url) in [("url", &url), ("listen_url", &listen_url)] {
            refuse_second_password(&section, name, url.as_ref(), password);
        }
    }
    section.finish();
    Some(ConnectionSettings {
        url: url?.value,
        listen_url: listen_url.map(|url| url.value),
        password: password.map(|password| password.value),
        schema: match schema {
            Some(schema) => schema.value,
            // Cannot fail: the default is spelt as a name.
            None => SchemaName::new("copyhold").expect("a valid name"),
        },
        wakeup: wakeup.map_or(Wakeup::Auto, |wakeup| wakeup.value),
    })
}

/// Returns a problem for each file that the client library would wait for or read without end, because a variable of
/// libpq's names it or it is where passwords are by default.
fn files_of_variables(environment: &Environment) -> Vec<Problem> {
    const VARIABLES: [&str; 4] = ["PGPASSFILE", "PGSSLROOTCERT", "PGSSLCERT", "PGSSLKEY"];
    let check = |position: Position, path: PathBuf, or: &str| {
        let error = regular_file::check(&path, AUTHORITIES_AT_MOST_BYTES).err()?;
        let named = if position == Position::File { "the file of passwords is" } else { "names" };
        let what = format!("{named} {}, which {error}", path.display());
        Some(Problem { position, what, todo: format!("{}, or {or}", error.remedy()) })
    };
    let of_variable = |name: &str| {
        // The value may be the certificate itself.
        let path = environment.get(name).filter(|value| !value.to_string_lossy().contains("-----BEGIN"))?;
        check(Position::Variable(name.to_owned()), PathBuf::from(path), &format!("unset {name}"))
    };
    let by_default = environment.get("HOME").map(|home| PathBuf::from(home).join(".pgpass"));
    let by_default = by_default.and_then(|path| check(Position::File, path, "move it away"));
    VARIABLES.into_iter().filter_map(of_variable).chain(by_default).collect()
}

fn refuse_second_password(
    section: &Section<'_>,
    name: &str,
    url: Option<&Positioned<Secret>>,
    password: &Positioned<Secret>,
) {
    if url.is_some_and(|url| has_password(url.value.expose_secret())) {
        let what = format!("and the password in {} exclude each other", section.path_of(name));
        section.note_at(&password.position, "password_file", &what, "remove one of them, better the one in the URL");
    }
}

fn schema_name(name: &str) -> Result<SchemaName, InvalidValue> {
    SchemaName::new(name).map_err(|invalid| match invalid {
        InvalidName::Spelling => InvalidValue::new(
            format!("is {name:?}, which is no name for a schema"),
            "begin with a lower-case letter, then up to 30 of a-z, 0-9 and _",
        ),
        InvalidName::Taken => InvalidValue::new(
            format!("is {name:?}, which PostgreSQL keeps for itself"),
            r#"choose another name; the default is "copyhold""#,
        ),
    })
}
