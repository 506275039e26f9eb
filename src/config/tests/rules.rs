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
fn every_fault_of_a_rule_is_told_at_once_with_its_place() {
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
    insta::assert_snapshot!(case.report(), @"");
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
    insta::assert_snapshot!(case.report(), @"");
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
fn what_is_no_list_of_rules_is_told_how_it_is_written() {
    let todo = "write [[rules]] above each";
    let case = Case::least_and("[rules]\nreplicas = [\"b2\"]\n");
    case.is_refused(&[("copyhold.toml:13:2: rules is a list of sections", todo)]);
    let case = Case::of(LEAST).env("COPYHOLD_RULES", "[]");
    assert!(case.load().is_ok_and(|config| config.rules.is_empty()) || case.report().contains(todo));
    let case = Case::least_and("[[rule]]\nreplicas = [\"b2\"]\n");
    case.is_refused(&[("copyhold.toml:13:3: there is no setting rule", "did you mean [rules]?")]);
}
