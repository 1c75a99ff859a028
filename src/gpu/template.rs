//! Makes the final WGSL of a kernel's variant: includes, conditions, constants and types, by the rules of `shaders/README.md`.

use super::{aliases, pieces};
use crate::record::{DType, Kernel, Variant};
use crate::{Error, Result, Tier};

/// What `//#include` can name.
const SHARED: &[(&str, &str)] = &[
    ("shared/activation.wgsl", include_str!("../../shaders/shared/activation.wgsl")),
    ("shared/coop.wgsl", include_str!("../../shaders/shared/coop.wgsl")),
    ("shared/direct.wgsl", include_str!("../../shaders/shared/direct.wgsl")),
    ("shared/epilogue.wgsl", include_str!("../../shaders/shared/epilogue.wgsl")),
    ("shared/flat.wgsl", include_str!("../../shaders/shared/flat.wgsl")),
    ("shared/gelu.wgsl", include_str!("../../shaders/shared/gelu.wgsl")),
    ("shared/group_norm_params.wgsl", include_str!("../../shaders/shared/group_norm_params.wgsl")),
    ("shared/run.wgsl", include_str!("../../shaders/shared/run.wgsl")),
    ("shared/tile.wgsl", include_str!("../../shaders/shared/tile.wgsl")),
    ("shared/tokens.wgsl", include_str!("../../shaders/shared/tokens.wgsl")),
    ("shared/weight.wgsl", include_str!("../../shaders/shared/weight.wgsl")),
];

/// Whether a variant needs a device with cooperative matrices.
pub fn needs_matrices(variant: &Variant) -> bool {
    variant.has("COOP")
}

/// Whether a variant needs a device with `SHADER_F16`.
pub fn needs_f16(variant: &Variant) -> bool {
    variant.has("WEIGHT_F16") || needs_matrices(variant) || variant.types.iter().any(|&(_, dtype)| dtype == DType::F16)
}

/// What a variant needs of a device: the tier to leave out where it does not compile.
pub fn tier_of(kernel: &Kernel, variant: &Variant) -> Tier {
    match () {
        () if needs_matrices(variant) => Tier::Matrices,
        () if needs_subgroups(kernel.source) => Tier::Subgroups,
        () if variant.has("PACKED") => Tier::Packed,
        () if needs_f16(variant) => Tier::Half,
        () => Tier::Single,
    }
}

/// Whether an expanded text uses subgroups. The standard wants `enable subgroups;` before such a text; naga 30 refuses that
/// line and needs none, so [`expand`] does not write it: who hands the text to a browser does.
pub fn needs_subgroups(wgsl: &str) -> bool {
    let values = ["subgroup_invocation_id", "subgroup_size", "subgroup_id", "num_subgroups"];
    let is_function = |word: &str| {
        let name = word.strip_prefix("subgroup").or_else(|| word.strip_prefix("quad"));
        name.is_some_and(|name| name.starts_with(char::is_uppercase))
    };
    pieces::words(wgsl).any(|word| values.contains(&word) || is_function(word))
}

/// The WGSL of `variant`, ready for a compiler: types stand in place of aliases.
///
/// # Errors
/// When the text includes an unknown file, its conditions do not balance, a directive is none of the known ones, or an
/// alias has no type.
pub fn expand(kernel: &Kernel, variant: &Variant) -> Result<String> {
    let mut expansion = Expansion { variant, included: Vec::new(), text: String::new() };
    if needs_f16(variant) {
        expansion.text.push_str("enable f16;\n");
    }
    if needs_matrices(variant) {
        // Loads, stores and products are under conditions that are the same for a whole subgroup, which naga cannot see.
        expansion.text.push_str("enable wgpu_cooperative_matrix;\ndiagnostic(off, derivative_uniformity);\n");
    }
    for (name, dtype) in &variant.types {
        expansion.text.push_str(&format!("alias {name}4 = vec4<{}>;\n", dtype.name()));
        if *name == "out" {
            expansion.text.push_str(&format!("alias out2 = vec2<{}>;\n", dtype.name()));
        }
    }
    for (name, value) in &variant.constants {
        expansion.text.push_str(&format!("const {name}: u32 = {value}u;\n"));
    }
    let file = format!("{}.wgsl", kernel.stem);
    expansion.append(&file, kernel.source)?;
    aliases::write_out(&expansion.text).map_err(|what| Error::Device(format!("shaders/{file}: {what}")))
}

struct Expansion<'a> {
    variant: &'a Variant,
    included: Vec<&'static str>,
    text: String,
}

impl Expansion<'_> {
    fn append(&mut self, file: &str, source: &str) -> Result<()> {
        let mut conditions = Conditions::default();
        for (index, line) in source.lines().enumerate() {
            let fault = |what: String| Error::Device(format!("shaders/{file}:{}: {what}", index + 1));
            match Directive::parse(line).map_err(fault)? {
                Some(Directive::If(name)) => conditions.push(self.variant.has(name)),
                Some(Directive::Else) => conditions.invert().map_err(fault)?,
                Some(Directive::EndIf) => conditions.pop().map_err(fault)?,
                Some(Directive::Include(_)) | None if !conditions.hold() => {}
                Some(Directive::Include(name)) => self.include(name).map_err(|e| fault(e.to_string()))?,
                None => {
                    self.text.push_str(line);
                    self.text.push('\n');
                }
            }
        }
        match conditions.open() {
            0 => Ok(()),
            open => Err(Error::Device(format!("shaders/{file}: {open} //#if without //#endif"))),
        }
    }

    fn include(&mut self, name: &str) -> Result<()> {
        let Some(&(name, source)) = SHARED.iter().find(|(known, _)| *known == name) else {
            return Err(Error::Device(format!("unknown include {name:?}: gpu::template lists the shared files")));
        };
        if self.included.contains(&name) {
            return Ok(());
        }
        self.included.push(name);
        self.append(name, source)
    }
}

enum Directive<'a> {
    Include(&'a str),
    If(&'a str),
    Else,
    EndIf,
}

impl<'a> Directive<'a> {
    fn parse(line: &'a str) -> std::result::Result<Option<Self>, String> {
        let Some(text) = line.trim().strip_prefix("//#") else {
            return Ok(None);
        };
        let (word, argument) = text.split_once(char::is_whitespace).map_or((text, ""), |(w, a)| (w, a.trim()));
        let directive = match (word, argument) {
            ("include", quoted) if quoted.len() > 2 && quoted.starts_with('"') && quoted.ends_with('"') => {
                Directive::Include(&quoted[1..quoted.len() - 1])
            }
            ("if", name) if !name.is_empty() && !name.contains(char::is_whitespace) => Directive::If(name),
            ("else", "") => Directive::Else,
            ("endif", "") => Directive::EndIf,
            _ => return Err(format!("expected //#include \"file\", //#if NAME, //#else or //#endif, found {line:?}")),
        };
        Ok(Some(directive))
    }
}

/// The open `//#if`s of one file, outermost first.
#[derive(Default)]
struct Conditions(Vec<Condition>);

struct Condition {
    holds: bool,
    has_else: bool,
}

impl Conditions {
    fn push(&mut self, holds: bool) {
        self.0.push(Condition { holds, has_else: false });
    }

    fn invert(&mut self) -> std::result::Result<(), String> {
        match self.0.last_mut() {
            Some(condition) if !condition.has_else => {
                *condition = Condition { holds: !condition.holds, has_else: true };
                Ok(())
            }
            Some(_) => Err("a second //#else".into()),
            None => Err("//#else without //#if".into()),
        }
    }

    fn pop(&mut self) -> std::result::Result<(), String> {
        self.0.pop().map(|_| ()).ok_or_else(|| "//#endif without //#if".into())
    }

    fn hold(&self) -> bool {
        self.0.iter().all(|c| c.holds)
    }

    fn open(&self) -> usize {
        self.0.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn expanded(source: &'static str, flags: &[&'static str]) -> Result<String> {
        let kernel = Kernel { stem: "test", source, host: |_| {} };
        expand(&kernel, &Variant { flags: flags.to_vec(), ..Variant::default() })
    }

    #[test]
    fn conditions_nest() {
        let source =
            "//#if A\na\n//#if B\nab\n//#else\na-b\n//#endif\n//#else\n-a\n//#if B\nb\n//#endif\n//#endif\nend";
        assert_eq!(expanded(source, &["A", "B"]).unwrap(), "a\nab\nend\n");
        assert_eq!(expanded(source, &["A"]).unwrap(), "a\na-b\nend\n");
        assert_eq!(expanded(source, &["B"]).unwrap(), "-a\nb\nend\n");
        assert_eq!(expanded(source, &[]).unwrap(), "-a\nend\n");
    }

    #[test]
    fn an_include_appears_once_and_only_where_its_condition_holds() {
        let source = "//#include \"shared/weight.wgsl\"\n//#include \"shared/weight.wgsl\"\n//#if A\n//#include \"none\"\n//#endif";
        assert_eq!(expanded(source, &[]).unwrap().matches("fn load_weight(").count(), 1);
        assert!(expanded(source, &["A"]).unwrap_err().to_string().contains("test.wgsl:4: unknown include \"none\""));
    }

    #[test]
    fn half_precision_is_enabled_before_types_and_constants() {
        let kernel = Kernel { stem: "test", source: "text", host: |_| {} };
        let weights = Variant { flags: vec!["WEIGHT_F16"], constants: vec![("N", 3)], ..Variant::default() };
        assert_eq!(expand(&kernel, &weights).unwrap(), "enable f16;\nconst N: u32 = 3u;\ntext\n");
    }

    #[test]
    fn activations_have_the_types_that_are_bound() {
        let kernel = Kernel { stem: "test", source: "x4(out4, out2)", host: |_| {} };
        let mixed = Variant { types: vec![("x", DType::F16), ("out", DType::F32)], ..Variant::default() };
        let text = "enable f16;\n\n\n\nvec4<f16>(vec4<f32>, vec2<f32>)\n";
        assert_eq!(expand(&kernel, &mixed).unwrap(), text);
        let single = Variant { types: vec![("x", DType::F32)], ..Variant::default() };
        assert_eq!(expand(&kernel, &single).unwrap(), "\nvec4<f32>(out4, out2)\n");
    }

    #[test]
    fn conditions_choose_what_an_alias_is() {
        let source = "//#if A\nalias T = x4;\n//#else\nalias T = vec2<u32>;\n//#endif\nT";
        let kernel = Kernel { stem: "test", source, host: |_| {} };
        let types = vec![("x", DType::F32)];
        let variant = Variant { flags: vec!["A"], types: types.clone(), ..Variant::default() };
        assert_eq!(expand(&kernel, &variant).unwrap(), "\n\nvec4<f32>\n");
        assert_eq!(expand(&kernel, &Variant { types, ..Variant::default() }).unwrap(), "\n\nvec2<u32>\n");
        let error = expanded("alias T;", &[]).unwrap_err().to_string();
        assert!(error.contains("shaders/test.wgsl: expected alias NAME = TYPE;"), "{error}");
    }

    #[test]
    fn subgroups_are_found_by_their_names() {
        for text in ["let a = subgroupAdd(b);", "@builtin(subgroup_size) lanes: u32", "quadBroadcast(a, 1u)"] {
            assert!(needs_subgroups(text), "{text}");
        }
        for text in ["// subgroupAdd(b)", "let subgroup = subgroups;", "fn quad_of(a: u32)", "workgroupBarrier();"] {
            assert!(!needs_subgroups(text), "{text}");
        }
    }

    #[test]
    fn unbalanced_or_unknown_directives_are_errors() {
        for (source, message) in [
            ("//#if A", "1 //#if without //#endif"),
            ("//#endif", "//#endif without //#if"),
            ("//#else", "//#else without //#if"),
            ("//#if A\n//#else\n//#else\n//#endif", "a second //#else"),
            ("//#elif A", "expected //#include"),
            ("//#if", "expected //#include"),
            ("//#if A B\n//#endif", "expected //#include"),
            ("//#include shared/tile.wgsl", "expected //#include"),
        ] {
            let error = expanded(source, &[]).unwrap_err().to_string();
            assert!(error.contains(message), "{source:?}: {error}");
        }
    }
}
