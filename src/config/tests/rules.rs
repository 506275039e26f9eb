//! Tests: rules that are accepted and refused.

use super::*;

#[test]
fn rules_are_read_in_their_order_and_shown_as_they_could_be_read_again() {
    let config = Case::least_and(
        r#"
[[rules]]
prefix = "a \"b\"/é"
max_size = "10MiB"
replicas = ["wasabi", "b2"]
[[rules]]
prefix = ""
min_size = "1GB"
max_size = "1GB"
replicas = ["b2"]
[[rules]]
replicas = ["wasabi"]
"#,
    )
    .config();
    let shown: String = config.rules.iter().map(ToString::to_string).collect();
    insta::assert_snapshot!(shown, @r#"
    [[rules]]
    prefix = "a \"b\"/é"
    max_size = "10MiB"
    replicas = ["wasabi", "b2"]
    [[rules]]
    min_size = "1000000000B"
    max_size = "1000000000B"
    replicas = ["b2"]
    [[rules]]
    replicas = ["wasabi"]
    "#);
    assert!(config.to_string().contains(&config.rules[0].to_string()));
    assert_eq!(Case::least_and(&shown).config().rules, config.rules);
    assert!(Case::of(LEAST).config().rules.is_empty());
}

#[test]
fn every_fault_of_a_rule_is_reported_at_once_with_its_position() {
    let case = Case::least_and(
        r#"[[rules]]
prefix = "x/"
[[rules]]
replicas = []
[[rules]]
replicas = ["b2", "wasaby"]
[[rules]]
replicas = ["b2", "b2"]
[[rules]]
min_size = "2MiB"
max_size = "1MiB"
replicas = "b2"
[[rules]]
prefixes = "x"
max_size = 17
replicas = ["b2", 17]
[[rules]]
prefix = "nul\u0000"
replicas = ["cold"]
"#,
    );
    insta::assert_snapshot!(case.report(), @r#"
    copyhold.toml:13:1: rules.replicas is missing
        write replicas = ["b2", "wasabi"] in this section
    copyhold.toml:16:12: rules.replicas names no replica
        name some, at least the primary, or remove the rule: what no rule fits is wanted at all replicas
    copyhold.toml:18:19: rules.replicas has "wasaby", but there is no [replicas.wasaby]
        did you mean "wasabi"?
    copyhold.toml:20:19: rules.replicas has "b2" twice
        remove one of the two
    copyhold.toml:22:12: rules.min_size is 2MiB, more than max_size of 1MiB: no object has such a size
        exchange the two, or correct one of them
    copyhold.toml:24:12: rules.replicas is no list
        write the words in quotes with commas between, in brackets: ["b2", "wasabi"]
    copyhold.toml:26:1: there is no setting rules.prefixes
        did you mean prefix?
    copyhold.toml:27:12: rules.max_size is a whole number, where a size is needed
        write a number with its unit in quotes: "256MiB" or "1GiB"
    copyhold.toml:28:19: rules.replicas is a whole number, where text in quotes is needed
        write it in quotes
    copyhold.toml:30:10: rules.prefix is the beginning of no key: a key with a NUL byte cannot be kept in PostgreSQL
        shorten or correct it
    copyhold.toml:31:13: rules.replicas has "cold", but there is no [replicas.cold]
        name some of b2, wasabi
    "#);
}

#[test]
fn a_rule_that_can_never_count_is_refused() {
    let case = Case::least_and(
        r#"[[rules]]
prefix = "photos/"
replicas = ["b2", "wasabi"]
[[rules]]
prefix = "photos/raw/"
replicas = ["b2"]
[[rules]]
prefix = "photos/"
max_size = "1KiB"
replicas = ["wasabi", "b2"]
[[rules]]
max_size = "1MiB"
replicas = ["b2"]
[[rules]]
min_size = "1048577B"
replicas = ["wasabi"]
[[rules]]
prefix = "video/"
min_size = "1KiB"
replicas = ["b2"]
"#,
    );
    insta::assert_snapshot!(case.report(), @r#"
    copyhold.toml:16:1: rules has a rule that can never count: the rule in line 13 fits everything that it does, and it contradicts
        the first rule that fits counts: put the narrower one first, or remove it
    copyhold.toml:19:1: rules has a rule that can never count: the rule in line 13 fits everything that it does
        the first rule that fits counts: put the narrower one first, or remove it
    copyhold.toml:29:1: rules has a rule that can never count: the rules in lines 23 and 26 fit everything that it does, and it contradicts
        the first rule that fits counts: put the narrower one first, or remove it
    "#);
}

#[test]
fn what_only_seems_to_be_covered_is_accepted() {
    for rules in [
        // The narrower one first.
        r#"[[rules]]
prefix = "a/b"
replicas = ["b2"]
[[rules]]
prefix = "a/"
replicas = ["wasabi"]"#,
        // Objects of unknown size are left for the last one.
        r#"[[rules]]
max_size = "1MiB"
replicas = ["b2"]
[[rules]]
min_size = "1048577B"
replicas = ["wasabi"]
[[rules]]
replicas = ["b2", "wasabi"]"#,
        // There is a gap of one byte.
        r#"[[rules]]
max_size = "10B"
replicas = ["b2"]
[[rules]]
min_size = "12B"
replicas = ["wasabi"]
[[rules]]
min_size = "11B"
replicas = ["b2", "wasabi"]"#,
        // Overlapping, and neither of them is in the other.
        r#"[[rules]]
max_size = "10B"
replicas = ["b2"]
[[rules]]
min_size = "5B"
replicas = ["wasabi"]"#,
    ] {
        Case::least_and(&format!("\n{rules}\n")).config();
    }
}

#[test]
fn a_value_that_is_no_list_of_rules_is_refused_with_an_example() {
    let todo = "write [[rules]] above each";
    let case = Case::least_and("[rules]\nreplicas = [\"b2\"]\n");
    case.is_refused(&[("copyhold.toml:13:2: rules is a list of sections", todo)]);
    let case = Case::of(LEAST).env("COPYHOLD_RULES", "b2");
    case.is_refused(&[("COPYHOLD_RULES: rules is a list of sections", todo)]);
    let case = Case::least_and("[[rule]]\nreplicas = [\"b2\"]\n");
    case.is_refused(&[("copyhold.toml:13:3: there is no setting rule", "did you mean [rules]?")]);
}
