//! Writes families in Prometheus' text format, for values that the recorder cannot hold: with fractions in a counter,
//! or with an end.

use std::fmt::Write as _;

/// The type in the `# TYPE` line.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Counter,
    Gauge,
}

/// Appends one family. `series`: the label's value, which is not written where `label` is `None`, and the sample.
pub(super) fn write<'a>(
    text: &mut String,
    (name, kind, help): (&str, Kind, &str),
    label: Option<&str>,
    series: impl IntoIterator<Item = (&'a str, f64)>,
) {
    let kind = match kind {
        Kind::Counter => "counter",
        Kind::Gauge => "gauge",
    };
    let mut series = series.into_iter().peekable();
    if series.peek().is_none() {
        return;
    }
    // Cannot fail, here and below: a String takes everything.
    let _ = writeln!(text, "# HELP {name} {help}\n# TYPE {name} {kind}");
    for (value, sample) in series {
        let _ = match label {
            Some(label) => writeln!(text, "{name}{{{label}=\"{}\"}} {sample}", escaped(value)),
            None => writeln!(text, "{name} {sample}"),
        };
    }
    text.push('\n');
}

/// A label's value as the format wants it.
fn escaped(value: &str) -> String {
    value.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_family_has_its_help_its_type_and_escaped_labels_and_an_empty_one_nothing() {
        let mut text = String::new();
        write(&mut text, ("a_total", Kind::Counter, "What it is."), Some("why"), [("so \"\\\n", 0.5), ("b", 12.0)]);
        write(&mut text, ("b", Kind::Gauge, "Nothing."), None, []);
        write(&mut text, ("c", Kind::Gauge, "One."), None, [("", 9_007_199_254_740_992.0)]);
        assert_eq!(
            text,
            "# HELP a_total What it is.\n# TYPE a_total counter\na_total{why=\"so \\\"\\\\\\n\"} 0.5\na_total{why=\"b\"} 12\n\n\
             # HELP c One.\n# TYPE c gauge\nc 9007199254740992\n\n"
        );
    }
}
