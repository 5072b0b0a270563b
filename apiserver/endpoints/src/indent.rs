//! Indents JSON as it flows by, for `?pretty=true`; two spaces a level, as upstream prints it.

/// Keeps its place between chunks, so that a streamed list can be indented too.
#[derive(Default)]
pub struct Indenter {
    depth: usize,
    in_string: bool,
    escaped: bool,
    /// A container was opened and nothing is in it yet.
    opened: bool,
}

impl Indenter {
    /// Appends the indented form of the next chunk.
    pub fn feed(&mut self, chunk: &[u8], out: &mut Vec<u8>) {
        for &b in chunk {
            if self.in_string {
                self.string_byte(b, out);
            } else if !b.is_ascii_whitespace() {
                self.structural(b, out);
            }
        }
    }

    fn string_byte(&mut self, b: u8, out: &mut Vec<u8>) {
        out.push(b);
        if self.escaped {
            self.escaped = false;
        } else if b == b'\\' {
            self.escaped = true;
        } else if b == b'"' {
            self.in_string = false;
        }
    }

    fn structural(&mut self, b: u8, out: &mut Vec<u8>) {
        if self.opened && !matches!(b, b'}' | b']') {
            self.line(out);
        }
        match b {
            b'{' | b'[' => {
                out.push(b);
                self.depth += 1;
                self.opened = true;
                return;
            }
            b'}' | b']' => {
                self.depth = self.depth.saturating_sub(1);
                if !self.opened {
                    self.line(out);
                }
                out.push(b);
            }
            b',' => {
                out.push(b);
                self.line(out);
            }
            b':' => out.extend_from_slice(b": "),
            _ => {
                self.in_string = b == b'"';
                out.push(b);
            }
        }
        self.opened = false;
    }

    fn line(&self, out: &mut Vec<u8>) {
        out.push(b'\n');
        out.extend(std::iter::repeat_n(b' ', self.depth * 2));
    }
}

/// Indents a whole document.
pub fn indent(json: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(json.len() * 2);
    Indenter::default().feed(json, &mut out);
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn same_as_serde_would_print_it() {
        let v = api::json!({"a": [], "b": {}, "c": [1, {"d": "x\"{,\\"}], "e": {"f": null, "g": -1.5}});
        let text = serde_json::to_string(&v).unwrap();
        let want = serde_json::to_string_pretty(&v).unwrap();
        assert_eq!(String::from_utf8(indent(text.as_bytes())).unwrap(), want);
        let (mut by_byte, mut one) = (Vec::new(), Indenter::default());
        text.bytes().for_each(|b| one.feed(&[b], &mut by_byte));
        assert_eq!(by_byte, want.as_bytes());
    }
}
