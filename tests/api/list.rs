//! A line for each public item: what it is, its path, its signature.

use std::collections::BTreeSet;

use quote::ToTokens;
use syn::{Attribute, Fields, ImplItem, Item, Type, Visibility};

use super::tree::{ModulePath, Tree, Wanted, attributes, ident, is_built, is_hidden, leaves, visibility};

/// All that a program can name, by path.
pub(super) fn public_items(tree: &Tree) -> Vec<String> {
    let mut list = List { tree, lines: Vec::new() };
    list.module(&[], "chiaro");
    list.lines
}

struct List<'a> {
    tree: &'a Tree,
    lines: Vec<String>,
}

impl List<'_> {
    fn module(&mut self, module: &[String], path: &str) {
        let shown = |item: &&Item| is_public(visibility(item)) && !is_hidden(attributes(item));
        for item in self.tree.0[module].iter().filter(shown) {
            if let Item::Use(one) = item {
                for (alias, from) in leaves(&one.tree) {
                    // Another crate, as a whole.
                    if from == ["wgpu"] {
                        self.lines.push(format!("crate {path}::{alias}"));
                        continue;
                    }
                    let item = self.tree.follow(module, &from, Wanted::Item);
                    let found = item.or_else(|| self.tree.follow(module, &from, Wanted::Module));
                    let (at, name) = found.unwrap_or_else(|| panic!("{path}: {} leads nowhere", from.join("::")));
                    self.named(&at, &name, &format!("{path}::{alias}"));
                }
            } else if let Some(name) = ident(item) {
                self.named(module, &name.to_string(), &format!("{path}::{name}"));
            }
        }
    }

    /// What `name` is in `module`, under the path by which others see it; an item before a module of that name.
    fn named(&mut self, module: &[String], name: &str, path: &str) {
        let items = &self.tree.0[module];
        let is_it = |item: &&Item| ident(item).is_some_and(|own| own == name);
        let item = items.iter().filter(is_it).min_by_key(|item| matches!(item, Item::Mod(_))).expect("it was resolved");
        let open =
            if attributes(item).iter().any(|one| one.path().is_ident("non_exhaustive")) { ", may grow" } else { "" };
        match item {
            Item::Mod(_) => {
                self.lines.push(format!("mod {path}"));
                self.module(&[module, &[name.to_owned()]].concat(), path);
            }
            Item::Fn(one) => self.lines.push(format!("fn {path}{}", signature(&one.sig))),
            Item::Const(one) => self.lines.push(format!("const {path}: {}", text(&one.ty))),
            Item::Static(one) => self.lines.push(format!("static {path}: {}", text(&one.ty))),
            Item::Type(one) => self.lines.push(format!("type {path}{} = {}", text(&one.generics), text(&one.ty))),
            Item::Struct(one) => {
                self.lines.push(format!("struct {path}{}{open}", text(&one.generics)));
                self.fields(&one.fields, path);
                self.own(module, name, path, &one.attrs);
            }
            Item::Enum(one) => {
                self.lines.push(format!("enum {path}{}{open}", text(&one.generics)));
                for variant in one.variants.iter().filter(|one| is_built(&one.attrs) && !is_hidden(&one.attrs)) {
                    self.lines.push(format!(
                        "variant {path}::{}{}",
                        variant.ident,
                        text(&variant.fields).replace('{', " {")
                    ));
                }
                self.own(module, name, path, &one.attrs);
            }
            Item::Trait(one) => self.lines.push(format!("trait {path}{}", text(&one.generics))),
            _ => {}
        }
    }

    fn fields(&mut self, fields: &Fields, path: &str) {
        for (place, field) in
            fields.iter().enumerate().filter(|(_, one)| is_public(Some(&one.vis)) && !is_hidden(&one.attrs))
        {
            let name = field.ident.as_ref().map_or(place.to_string(), ToString::to_string);
            self.lines.push(format!("field {path}::{name}: {}", text(&field.ty)));
        }
    }

    /// The functions and constants of a type, wherever they are written, and its traits.
    fn own(&mut self, module: &[String], name: &str, path: &str, attributes: &[Attribute]) {
        let mut traits: BTreeSet<String> = derived(attributes);
        let mut lines = Vec::new();
        for (at, items) in &self.tree.0 {
            for item in items {
                match item {
                    Item::Macro(one) if one.mac.path.is_ident("serde_by_name") => {
                        let names = one.mac.tokens.to_string();
                        if at == module && names.split(',').any(|one| one.trim() == name) {
                            traits.extend(["Serialize".into(), "Deserialize".into()]);
                        }
                    }
                    Item::Impl(one) if self.is_of(&one.self_ty, at, module, name) => match &one.trait_ {
                        Some((_, of, _)) => drop(traits.insert(short(of))),
                        None => lines.extend(one.items.iter().filter_map(|item| member(item, path))),
                    },
                    _ => {}
                }
            }
        }
        // Debug alone is no promise.
        traits.remove("Debug");
        lines.sort();
        self.lines.append(&mut lines);
        if !traits.is_empty() {
            self.lines.push(format!("traits {path}: {}", traits.into_iter().collect::<Vec<_>>().join(", ")));
        }
    }

    fn is_of(&self, own: &Type, at: &ModulePath, module: &[String], name: &str) -> bool {
        let Type::Path(path) = own else { return false };
        let names: Vec<String> = path.path.segments.iter().map(|one| one.ident.to_string()).collect();
        names.last().is_some_and(|last| last == name)
            && self.tree.follow(at, &names, Wanted::Item).is_some_and(|(found, own)| found == module && own == name)
    }
}

fn member(item: &ImplItem, path: &str) -> Option<String> {
    let (attributes, public, line) = match item {
        ImplItem::Fn(one) => (&one.attrs, &one.vis, format!("fn {path}::{}{}", one.sig.ident, signature(&one.sig))),
        ImplItem::Const(one) => (&one.attrs, &one.vis, format!("const {path}::{}: {}", one.ident, text(&one.ty))),
        _ => return None,
    };
    (is_public(Some(public)) && is_built(attributes) && !is_hidden(attributes)).then_some(line)
}

fn derived(attributes: &[Attribute]) -> BTreeSet<String> {
    let mut traits = BTreeSet::new();
    for one in attributes.iter().filter(|one| one.path().is_ident("derive")) {
        let each = |meta: syn::meta::ParseNestedMeta<'_>| {
            traits.insert(short(&meta.path));
            Ok(())
        };
        one.parse_nested_meta(each).expect("a list of traits");
    }
    traits
}

fn is_public(visibility: Option<&Visibility>) -> bool {
    matches!(visibility, Some(Visibility::Public(_)))
}

/// A trait's name without the way there.
fn short(path: &syn::Path) -> String {
    path.segments.last().map_or_else(String::new, text)
}

/// Arguments and result.
fn signature(sig: &syn::Signature) -> String {
    let (inputs, output) = (text(&sig.inputs), text(&sig.output));
    let inputs = inputs.trim_end_matches(',').trim_start_matches("mut ");
    let space = if output.is_empty() { "" } else { " " };
    format!("{}({inputs}){space}{output}", text(&sig.generics))
}

/// Tokens as one writes them, without what documentation and attributes add.
fn text(tokens: &impl ToTokens) -> String {
    let mut plain = tokens.to_token_stream().to_string();
    while let Some(from) = plain.find("# [") {
        let mut depth = 0;
        let mut quoted = false;
        let mut escaped = false;
        let length = plain[from..].char_indices().find_map(|(at, c)| {
            match c {
                '"' if !escaped => quoted = !quoted,
                '[' if !quoted => depth += 1,
                ']' if !quoted => depth -= 1,
                _ => {}
            }
            escaped = c == '\\' && !escaped;
            (c == ']' && depth == 0 && !quoted).then_some(at + 1)
        });
        plain.replace_range(from..from + length.expect("an attribute ends"), "");
    }
    let letters: Vec<char> = plain.trim().chars().collect();
    let is_word = |c: char| c.is_alphanumeric() || c == '_';
    let mut tight = String::new();
    for (at, &c) in letters.iter().enumerate() {
        let next = letters[at + 1..].iter().find(|c| **c != ' ');
        let keeps = |last: char, next: char| is_word(last) && (is_word(next) || matches!(next, '\'' | '['));
        if c != ' ' || tight.chars().last().zip(next).is_some_and(|(last, &next)| keeps(last, next)) {
            tight.push(c);
        }
    }
    let tight = tight
        .replace("::", "\0")
        .replace(':', ": ")
        .replace('\0', "::")
        .replace(',', ", ")
        .replace(';', "; ")
        .replace("->", " -> ");
    let tight =
        tight.replace('=', " = ").replace('+', " + ").replace("{", " { ").replace('}', " }").replace(", )", ")");
    tight.split_whitespace().collect::<Vec<_>>().join(" ").replace(", }", " }").replace("( ", "(")
}

#[test]
fn signatures_are_written_as_one_writes_them() {
    let item: syn::ItemFn =
        syn::parse_str("fn a<'b>(x: &'b mut [std::vec::Vec<u8>; 2], f: impl Fn(u8) -> u8,) -> Option<&'b dyn X> {}")
            .expect("Rust");
    assert_eq!(
        signature(&item.sig),
        "<'b>(x: &'b mut [std::vec::Vec<u8>; 2], f: impl Fn(u8) -> u8) -> Option<&'b dyn X>"
    );
}
