//! Links of a page that is seen through our proxy: they lead back through it.
//!
//! Pure. Invariant: only links to the server's own root are touched; text that is no HTML comes
//! out as it went in.

/// Attributes that hold an address.
const ADDRESSES: [&[u8]; 16] = [
    b"action",
    b"background",
    b"cite",
    b"classid",
    b"codebase",
    b"data",
    b"formaction",
    b"href",
    b"icon",
    b"longdesc",
    b"manifest",
    b"poster",
    b"profile",
    b"src",
    b"usemap",
    b"xlink:href",
];

/// Elements whose content is no markup.
const RAW: [&[u8]; 2] = [b"script", b"style"];

/// A page with the prefix before each link to its server's root.
pub fn html(page: &[u8], prefix: &str) -> Vec<u8> {
    let mut walk = Walk { page, at: 0, out: Vec::with_capacity(page.len() + 256), prefix };
    while let Some(found) = find(&page[walk.at..], b"<") {
        walk.copy(found + 1);
        if page[walk.at..].starts_with(b"!--") {
            walk.copy_past(b"-->");
        } else if page.get(walk.at).is_some_and(u8::is_ascii_alphabetic) {
            let name = walk.tag();
            if RAW.iter().any(|raw| name.eq_ignore_ascii_case(raw)) {
                walk.copy_past(b"</");
            }
        }
    }
    walk.copy(page.len() - walk.at);
    walk.out
}

/// Where a redirection leads, seen through the proxy.
pub fn location(target: &str, prefix: &str) -> String {
    if leads_to_root(target.as_bytes(), prefix) {
        format!("{prefix}{target}")
    } else {
        target.to_owned()
    }
}

fn leads_to_root(target: &[u8], prefix: &str) -> bool {
    target.starts_with(b"/") && !target.starts_with(b"//") && !target.starts_with(prefix.as_bytes())
}

fn find(text: &[u8], what: &[u8]) -> Option<usize> {
    text.windows(what.len()).position(|part| part == what)
}

struct Walk<'a> {
    page: &'a [u8],
    at: usize,
    out: Vec<u8>,
    prefix: &'a str,
}

impl<'a> Walk<'a> {
    fn copy(&mut self, count: usize) -> &'a [u8] {
        let end = (self.at + count).min(self.page.len());
        let part = &self.page[self.at..end];
        self.out.extend_from_slice(part);
        self.at = end;
        part
    }

    fn copy_past(&mut self, what: &[u8]) {
        let rest = &self.page[self.at..];
        self.copy(find(rest, what).map_or(rest.len(), |at| at + what.len()));
    }

    fn copy_while(&mut self, wanted: impl Fn(u8) -> bool) -> &'a [u8] {
        let rest = &self.page[self.at..];
        self.copy(rest.iter().position(|byte| !wanted(*byte)).unwrap_or(rest.len()))
    }

    /// A tag from its name to its end; returns the name.
    fn tag(&mut self) -> &'a [u8] {
        let is_name = |byte: u8| !byte.is_ascii_whitespace() && !b"=>/\"'".contains(&byte);
        let name = self.copy_while(is_name);
        loop {
            self.copy_while(|byte| !is_name(byte) && byte != b'>');
            let attribute = self.copy_while(is_name);
            if attribute.is_empty() {
                self.copy(1);
                return name;
            }
            self.copy_while(|byte| byte.is_ascii_whitespace());
            if self.page.get(self.at) != Some(&b'=') {
                continue;
            }
            self.copy_while(|byte| byte == b'=' || byte.is_ascii_whitespace());
            let quote = self.page.get(self.at).copied().filter(|byte| b"\"'".contains(byte));
            self.copy(usize::from(quote.is_some()));
            let address = ADDRESSES.iter().any(|known| attribute.eq_ignore_ascii_case(known));
            if address && leads_to_root(&self.page[self.at..], self.prefix) {
                self.out.extend_from_slice(self.prefix.as_bytes());
            }
            match quote {
                Some(quote) => {
                    self.copy_while(|byte| byte != quote);
                    self.copy(1);
                }
                None => {
                    self.copy_while(|byte| !byte.is_ascii_whitespace() && byte != b'>');
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn links_to_the_root_go_through_the_proxy() {
        let check = |page: &str, want: &str| {
            assert_eq!(String::from_utf8(html(page.as_bytes(), "/p")).unwrap(), want);
        };
        check(r#"<a href="/rewriteme">x</a>"#, r#"<a href="/p/rewriteme">x</a>"#);
        check("<img alt='>' SRC='/a.png'/>", "<img alt='>' SRC='/p/a.png'/>");
        check("<form action=/go>/x</form>", "<form action=/p/go>/x</form>");
        for same in [
            r#"<a href="relative" title="/x">"#,
            r#"<a href="//other/x">"#,
            r#"<a href="http://other/x">"#,
            r#"<a href="/p/x">"#,
            r#"<script>if (a <b) x = "<a href='/y'>";</script>"#,
            r#"<!-- <a href="/x"> -->"#,
            r#"no markup, 1 < 2, href="/x""#,
            "<a href=\"/",
            "<a href",
            "<",
        ] {
            let want = if same == "<a href=\"/" { "<a href=\"/p/" } else { same };
            check(same, want);
        }
        assert_eq!(location("/login", "/p"), "/p/login");
        assert_eq!(location("https://other/login", "/p"), "https://other/login");
    }
}
