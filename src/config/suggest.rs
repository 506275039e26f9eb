//! "Did you mean": the known name that an unknown one was probably meant to be.

pub(super) use copyhold_core::did_you_mean::among;

use copyhold_core::did_you_mean::closest;

use super::env_overrides::variable_for;

/// For a path in the file: a similar name in the same section, else the same or a similar one elsewhere.
pub(super) fn for_setting(path: &str, known: &[String]) -> String {
    let (section, name) = split(path);
    let here = known.iter().filter(|known| split(known).0 == section);
    if let Some(found) = closest(name, here.map(|known| (split(known).1, known))) {
        return format!("did you mean {}?", split(found).1);
    }
    if let Some(found) = known.iter().find(|known| split(known).1 == name && !in_a_replica(known)) {
        return match split(found) {
            ("", _) => format!("did you mean {name} at the top level? Write it above the first section"),
            (section, _) => format!("did you mean {found}? Write it in the section [{section}]"),
        };
    }
    let sections = known.iter().map(|known| split(known).0).filter(|section| !section.is_empty());
    if let Some(found) = closest(path, sections.map(|section| (section, section))) {
        return format!("did you mean [{found}]?");
    }
    "remove it; config/copyhold.toml has every setting there is".to_owned()
}

pub(super) fn for_variable(variable: &str, known: &[String]) -> String {
    let variables: Vec<String> = known.iter().map(|path| variable_for(path)).collect();
    match closest(variable, variables.iter().map(|known| (known.as_str(), known))) {
        Some(found) => format!("did you mean {found}?"),
        None => "unset it; config/copyhold.toml has every setting there is".to_owned(),
    }
}

/// The last dot divides: `replicas.b2.bucket` is `bucket` in `replicas.b2`.
fn split(path: &str) -> (&str, &str) {
    path.rsplit_once('.').unwrap_or(("", path))
}

fn in_a_replica(path: &str) -> bool {
    path.starts_with("replicas.")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn known() -> Vec<String> {
        ["primary", "workers.count", "workers.memory", "lease.timeout", "replicas.b2.bucket"].map(str::to_owned).into()
    }

    #[test]
    fn a_misspelt_setting_is_recognised_in_its_section() {
        assert_eq!(for_setting("workers.cuont", &known()), "did you mean count?");
        assert_eq!(for_setting("replicas.b2.buckets", &known()), "did you mean bucket?");
        assert_eq!(for_setting("wrokers", &known()), "did you mean [workers]?");
    }

    #[test]
    fn a_setting_in_the_wrong_section_is_sent_to_the_right_one() {
        let top = "did you mean primary at the top level? Write it above the first section";
        assert_eq!(for_setting("workers.primary", &known()), top);
        let lease = "did you mean lease.timeout? Write it in the section [lease]";
        assert_eq!(for_setting("workers.timeout", &known()), lease);
    }

    #[test]
    fn what_resembles_nothing_gets_no_wild_guess() {
        assert!(for_setting("workers.colour", &known()).starts_with("remove it"));
        assert!(for_variable("COPYHOLD_HOME", &known()).starts_with("unset it"));
    }

    #[test]
    fn for_a_variable_with_one_underscore_the_name_with_two_is_suggested() {
        assert_eq!(for_variable("COPYHOLD_LEASE_TIMEOUT", &known()), "did you mean COPYHOLD_LEASE__TIMEOUT?");
    }
}
