//! "Did you mean": the known name that resembles an unknown one.

/// Returns the word among `known` that resembles `word` most, if any does.
pub fn among<'k>(word: &str, known: impl IntoIterator<Item = &'k str>) -> Option<&'k str> {
    closest(word, known.into_iter().map(|known| (known, known)))
}

/// Returns what belongs to the name that resembles `word` most. At most a third of the word may differ, and no more than
/// four letters.
pub fn closest<'k, T>(word: &str, known: impl Iterator<Item = (&'k str, T)>) -> Option<T> {
    let word = word.to_lowercase();
    let allowed = (word.chars().count() / 3).clamp(1, 4);
    known
        .map(|(name, found)| (strsim::damerau_levenshtein(&word, &name.to_lowercase()), found))
        .filter(|(distance, _)| *distance <= allowed)
        .min_by_key(|(distance, _)| *distance)
        .map(|(_, found)| found)
}
