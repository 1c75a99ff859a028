//! The library's modules as they stand in its files, and what a name means in one of them. Seen is the build with the default features.

use std::collections::BTreeMap;
use std::path::Path;

use syn::punctuated::Punctuated;
use syn::{Attribute, Item, Meta, Token, UseTree, Visibility};

/// Names from the crate's root.
pub(super) type ModulePath = Vec<String>;

#[derive(Clone, Copy, PartialEq)]
pub(super) enum Wanted {
    Module,
    Item,
}

/// Every module with its items, those left out that no build with the default features has.
pub(super) struct Tree(pub(super) BTreeMap<ModulePath, Vec<Item>>);

impl Tree {
    pub(super) fn read(src: &Path) -> Tree {
        let mut tree = Tree(BTreeMap::new());
        tree.file(&src.join("lib.rs"), src, Vec::new());
        tree
    }

    /// `folder` is where the files of its modules are.
    fn file(&mut self, file: &Path, folder: &Path, path: ModulePath) {
        let text = std::fs::read_to_string(file).unwrap_or_else(|e| panic!("{}: {e}", file.display()));
        let parsed = syn::parse_file(&text).unwrap_or_else(|e| panic!("{}: {e}", file.display()));
        self.module(parsed.items, folder, path);
    }

    fn module(&mut self, items: Vec<Item>, folder: &Path, path: ModulePath) {
        let items: Vec<Item> = items.into_iter().filter(|item| is_built(attributes(item))).collect();
        for item in &items {
            let Item::Mod(module) = item else { continue };
            let name = module.ident.to_string();
            let inner = [path.clone(), vec![name.clone()]].concat();
            let own = folder.join(&name);
            match &module.content {
                Some((_, items)) => self.module(items.clone(), &own, inner),
                None => {
                    let plain = folder.join(format!("{name}.rs"));
                    let found = if plain.exists() { plain } else { own.join("mod.rs") };
                    self.file(&found, &own, inner);
                }
            }
        }
        self.0.insert(path, items);
    }

    /// The module that defines what a name means in another, and its name there. A name can be a module's and an item's at once:
    /// `wants` says which.
    pub(super) fn resolve(&self, module: &[String], name: &str, wants: Wanted) -> Option<(ModulePath, String)> {
        let items = self.0.get(module)?;
        let is_it = |item: &&Item| ident(item).is_some_and(|own| own == name);
        let own = items.iter().filter(is_it).map(|item| matches!(item, Item::Mod(_)) == (wants == Wanted::Module));
        if own.clone().any(|is_wanted| is_wanted) {
            return Some((module.to_vec(), name.to_owned()));
        }
        let uses =
            items.iter().filter_map(|item| if let Item::Use(one) = item { Some(leaves(&one.tree)) } else { None });
        let uses: Vec<(String, ModulePath)> = uses.flatten().collect();
        let named = uses.iter().filter(|(alias, _)| alias == name);
        let globs = uses.iter().filter(|(alias, _)| alias == "*");
        named.filter_map(|(_, path)| self.follow(module, path, wants)).next().or_else(|| {
            globs.filter_map(|(_, path)| self.module_at(module, path)).find_map(|from| self.resolve(&from, name, wants))
        })
    }

    /// As [`resolve`](Self::resolve), of a path.
    pub(super) fn follow(&self, module: &[String], path: &[String], wants: Wanted) -> Option<(ModulePath, String)> {
        let (last, front) = path.split_last()?;
        self.resolve(&self.module_at(module, front)?, last, wants)
    }

    fn module_at(&self, module: &[String], path: &[String]) -> Option<ModulePath> {
        let mut at = module.to_vec();
        for name in path {
            match name.as_str() {
                "crate" => at.clear(),
                "self" => {}
                "super" => drop(at.pop()),
                _ => {
                    let (inside, name) = self.resolve(&at, name, Wanted::Module)?;
                    at = [inside, vec![name]].concat();
                }
            }
        }
        self.0.contains_key(&at).then_some(at)
    }
}

/// The names that a `use` brings, each with its path; `*` for all of a module.
pub(super) fn leaves(tree: &UseTree) -> Vec<(String, ModulePath)> {
    match tree {
        UseTree::Path(path) => {
            let front = path.ident.to_string();
            let with = |(alias, rest): (String, ModulePath)| (alias, [vec![front.clone()], rest].concat());
            leaves(&path.tree).into_iter().map(with).collect()
        }
        UseTree::Name(name) => vec![(name.ident.to_string(), vec![name.ident.to_string()])],
        UseTree::Rename(rename) => vec![(rename.rename.to_string(), vec![rename.ident.to_string()])],
        UseTree::Glob(_) => vec![("*".into(), Vec::new())],
        UseTree::Group(group) => group.items.iter().flat_map(leaves).collect(),
    }
}

pub(super) fn ident(item: &Item) -> Option<&syn::Ident> {
    Some(match item {
        Item::Const(one) => &one.ident,
        Item::Enum(one) => &one.ident,
        Item::Fn(one) => &one.sig.ident,
        Item::Mod(one) => &one.ident,
        Item::Static(one) => &one.ident,
        Item::Struct(one) => &one.ident,
        Item::Trait(one) => &one.ident,
        Item::Type(one) => &one.ident,
        _ => return None,
    })
}

pub(super) fn attributes(item: &Item) -> &[Attribute] {
    match item {
        Item::Const(one) => &one.attrs,
        Item::Enum(one) => &one.attrs,
        Item::Fn(one) => &one.attrs,
        Item::Impl(one) => &one.attrs,
        Item::Mod(one) => &one.attrs,
        Item::Static(one) => &one.attrs,
        Item::Struct(one) => &one.attrs,
        Item::Trait(one) => &one.attrs,
        Item::Type(one) => &one.attrs,
        Item::Use(one) => &one.attrs,
        _ => &[],
    }
}

pub(super) fn visibility(item: &Item) -> Option<&Visibility> {
    Some(match item {
        Item::Const(one) => &one.vis,
        Item::Enum(one) => &one.vis,
        Item::Fn(one) => &one.vis,
        Item::Mod(one) => &one.vis,
        Item::Static(one) => &one.vis,
        Item::Struct(one) => &one.vis,
        Item::Trait(one) => &one.vis,
        Item::Type(one) => &one.vis,
        Item::Use(one) => &one.vis,
        _ => return None,
    })
}

pub(super) fn is_built(attributes: &[Attribute]) -> bool {
    attributes.iter().filter(|one| one.path().is_ident("cfg")).all(|one| {
        let condition: Meta = one.parse_args().expect("one condition");
        holds(&condition)
    })
}

/// Whether documentation leaves it out.
pub(super) fn is_hidden(attributes: &[Attribute]) -> bool {
    attributes.iter().any(|one| match &one.meta {
        Meta::List(list) if list.path.is_ident("doc") => list.tokens.to_string() == "hidden",
        Meta::List(list) if list.path.is_ident("cfg_attr") => {
            let parts: Vec<Meta> = parts(one);
            holds(&parts[0]) && parts[1..].iter().any(|part| matches!(part, Meta::List(list) if list.path.is_ident("doc") && list.tokens.to_string() == "hidden"))
        }
        _ => false,
    })
}

fn parts(attribute: &Attribute) -> Vec<Meta> {
    let list = attribute.parse_args_with(Punctuated::<Meta, Token![,]>::parse_terminated);
    list.expect("a list of conditions and attributes").into_iter().collect()
}

/// A condition with the default features on this side of the systems: Unix, no tests.
fn holds(condition: &Meta) -> bool {
    let inner = |list: &syn::MetaList| {
        let inner = list.parse_args_with(Punctuated::<Meta, Token![,]>::parse_terminated);
        inner.expect("a list of conditions").into_iter().collect::<Vec<_>>()
    };
    match condition {
        Meta::Path(path) => !path.is_ident("test") && !path.is_ident("windows"),
        Meta::NameValue(pair) if pair.path.is_ident("feature") => {
            !matches!(&pair.value, syn::Expr::Lit(one) if matches!(&one.lit, syn::Lit::Str(name) if name.value() == "unstable"))
        }
        Meta::NameValue(_) => true,
        Meta::List(list) if list.path.is_ident("not") => !holds(&inner(list)[0]),
        Meta::List(list) if list.path.is_ident("any") => inner(list).iter().any(holds),
        Meta::List(list) => inner(list).iter().all(holds),
    }
}
