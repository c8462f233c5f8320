//! Patterns in the config: `*` is any text, `?` any character, all else itself.

/// Whether all of `text` is what the pattern says.
pub fn matches(pattern: &str, text: &str) -> bool {
    let mut rest = pattern.chars();
    match rest.next() {
        None => text.is_empty(),
        Some('*') => text.char_indices().map(|(at, _)| at).chain([text.len()]).any(|at| matches(rest.as_str(), &text[at..])),
        Some(wanted) => {
            let mut left = text.chars();
            left.next().is_some_and(|c| wanted == '?' || wanted == c) && matches(rest.as_str(), left.as_str())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stars_and_question_marks() {
        for (pattern, text, want) in [
            ("", "", true),
            ("", "x", false),
            ("*", "", true),
            ("a*b*a", "aba", true),
            ("ab*ba", "aba", false),
            ("*.toml", "a.toml", true),
            ("*.toml", "a.tom", false),
            ("?b", "äb", true),
            ("?", "", false),
            ("*ä", "xä", true),
        ] {
            assert_eq!(matches(pattern, text), want, "{pattern} {text}");
        }
    }
}
