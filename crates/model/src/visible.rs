//! Text of strangers for the eyes of a person: whatever would not be seen, or would change what is seen, is written out.

/// A kind of character that a person does not see as what it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Hidden {
    /// It takes no room.
    ZeroWidth,
    /// It turns the direction of text.
    Bidi,
    /// A control character: terminals may obey it.
    Control,
    /// Of the block of tags.
    Tag,
    /// A selector of variants. The two that choose between text and emoji carry nothing and are not meant.
    Variation,
}

/// What is hidden about a character, if anything. A line break and a tab are what they look like.
#[must_use]
pub fn hidden(letter: char) -> Option<Hidden> {
    match letter {
        '\n' | '\t' => None,
        '\u{200e}' | '\u{200f}' | '\u{061c}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}' => Some(Hidden::Bidi),
        '\u{00ad}'
        | '\u{034f}'
        | '\u{115f}'
        | '\u{1160}'
        | '\u{17b4}'
        | '\u{17b5}'
        | '\u{180e}'
        | '\u{200b}'..='\u{200d}'
        | '\u{2060}'..='\u{2065}'
        | '\u{206a}'..='\u{206f}'
        | '\u{2800}'
        | '\u{3164}'
        | '\u{feff}'
        | '\u{ffa0}'
        | '\u{fff9}'..='\u{fffb}' => Some(Hidden::ZeroWidth),
        '\u{180b}'..='\u{180d}' | '\u{180f}' | '\u{fe00}'..='\u{fe0d}' | '\u{e0100}'..='\u{e01ef}' => {
            Some(Hidden::Variation)
        }
        '\u{e0000}'..='\u{e007f}' => Some(Hidden::Tag),
        '\u{2028}' | '\u{2029}' => Some(Hidden::Control),
        _ if letter.is_control() => Some(Hidden::Control),
        _ => None,
    }
}

/// The text on one line, with every hidden character, line break and tab as `<U+200B>`.
#[must_use]
pub fn visible(text: &str) -> String {
    let mut shown = String::with_capacity(text.len());
    for letter in text.chars() {
        if hidden(letter).is_some() || matches!(letter, '\n' | '\t') {
            shown.push_str(&format!("<U+{:04X}>", u32::from(letter)));
        } else {
            shown.push(letter);
        }
    }
    shown
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn tricks_of_terminals_and_eyes_are_written_out() {
        for (text, wanted) in [
            ("read\u{200b}file", "read<U+200B>file"),
            ("\u{1b}[2J\u{9b}31m", "<U+001B>[2J<U+009B>31m"),
            ("abc\u{202e}fdp.exe", "abc<U+202E>fdp.exe"),
            ("\u{e0041}\u{e0042}", "<U+E0041><U+E0042>"),
            ("a\rb\nc\td", "a<U+000D>b<U+000A>c<U+0009>d"),
            ("x\u{fe01}\u{e0101}", "x<U+FE01><U+E0101>"),
            ("Grüße, 世界 ⚠\u{fe0f}", "Grüße, 世界 ⚠\u{fe0f}"),
        ] {
            assert_eq!(visible(text), wanted);
        }
    }

    proptest! {
        #[test]
        fn nothing_hidden_is_left(text: String) {
            prop_assert!(visible(&text).chars().all(|c| hidden(c).is_none() && !c.is_control()));
        }
    }
}
