//! Names: of tools, which have an alphabet, and of arguments, which models must be able to write.

use cogward_model::ToolName;

/// Longest name, in characters: the shortest bound that providers of models have.
const NAME_MAX: usize = 64;

/// The name of a tool after its operation.
pub(crate) fn tool(id: Option<&str>, method: &str, path: &str) -> Option<ToolName> {
    let by_id = id.map(alphabet).filter(|name| name.bytes().any(|byte| byte.is_ascii_alphanumeric()));
    let name = by_id.unwrap_or_else(|| alphabet(&format!("{}_{}", method.to_ascii_lowercase(), squeezed(path))));
    bounded(&name, id.unwrap_or(path)).parse().ok()
}

/// The name of an argument after its parameter.
pub(crate) fn argument(name: &str) -> String {
    bounded(&alphabet(name), name)
}

fn alphabet(text: &str) -> String {
    text.chars().map(|c| if c.is_ascii_alphanumeric() || matches!(c, '_' | '-' | '.') { c } else { '_' }).collect()
}

/// A path as words.
fn squeezed(path: &str) -> String {
    let words = path.split(|c: char| !c.is_ascii_alphanumeric()).filter(|word| !word.is_empty());
    words.collect::<Vec<_>>().join("_")
}

/// A long name is cut, and a mark of the whole of it keeps it apart from others with that beginning.
fn bounded(name: &str, whole: &str) -> String {
    if name.len() <= NAME_MAX {
        return name.to_owned();
    }
    // FNV-1a: nothing rests on it but that two names differ, and equal ones are refused.
    let mark = whole
        .bytes()
        .fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3));
    let kept: String = name.chars().take(NAME_MAX - 9).collect();
    format!("{kept}_{:08x}", mark & 0xffff_ffff)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_of_one_alphabet() {
        let name = |id: Option<&str>| tool(id, "GET", "/invoices/{id}/lines").unwrap().to_string();
        assert_eq!(name(Some("listInvoices")), "listInvoices");
        assert_eq!(name(Some("list invoices/all")), "list_invoices_all");
        assert_eq!(name(Some("rеad\u{200b}")), "r_ad_");
        assert_eq!(name(Some("請求書")), "get_invoices_id_lines");
        assert_eq!(name(None), "get_invoices_id_lines");
        let (one, two) = (name(Some(&format!("{}a", "x".repeat(100)))), name(Some(&format!("{}b", "x".repeat(100)))));
        assert_eq!((one.len(), two.len()), (64, 64));
        assert_ne!(one, two);
        assert_eq!(argument("filter[name]"), "filter_name_");
    }
}
