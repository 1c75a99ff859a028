// Compiles HLSL with DirectX's own compiler of shader model 6 and says where it put each buffer: `dxc LIBRARY < LIST` (harness.hpp). A program of
// Linux or, by MinGW, of Windows, for the compiler of either. Exit code 2: the library is no compiler.

#ifdef _WIN32
#include <windows.h>
#include <unknwn.h>

// MinGW lacks this annotation, and __declspec(uuid("...")), from which the header's types know who they are.
#ifndef _Maybenull_
#define _Maybenull_
#endif

constexpr unsigned long long hexadecimal(const char* text, int digits) {
    unsigned long long value = 0;
    for (int i = 0; i < digits; i++) {
        const char c = text[i];
        value = value * 16 + (c <= '9' ? c - '0' : (c | 32) - 'a' + 10);
    }
    return value;
}

constexpr GUID guid(const char* text) {
    GUID id{static_cast<unsigned long>(hexadecimal(text, 8)), static_cast<unsigned short>(hexadecimal(text + 9, 4)),
            static_cast<unsigned short>(hexadecimal(text + 14, 4)), {}};
    for (int i = 0; i < 8; i++) {
        id.Data4[i] = static_cast<unsigned char>(hexadecimal(text + (i < 2 ? 19 : 20) + 2 * i, 2));
    }
    return id;
}

#define CROSS_PLATFORM_UUIDOF(interface, spec)                  \
    struct interface;                                           \
    template <>                                                 \
    inline const GUID& __mingw_uuidof<interface>() {            \
        static constexpr GUID id = guid(spec);                  \
        return id;                                              \
    }
#else
#include "WinAdapter.h"

#include <dlfcn.h>
#endif

#include "dxcapi.h"

#include "harness.hpp"

namespace {

// What a COM object is held by.
template <typename T>
struct Held {
    T* object = nullptr;
    Held() = default;
    Held(const Held&) = delete;
    ~Held() {
        if (object) {
            object->Release();
        }
    }
    void** place() { return reinterpret_cast<void**>(&object); }
    T* operator->() const { return object; }
    explicit operator bool() const { return object != nullptr; }
};

DxcCreateInstanceProc creator(const char* path) {
#ifdef _WIN32
    const HMODULE library = LoadLibraryA(path);
    return library ? reinterpret_cast<DxcCreateInstanceProc>(GetProcAddress(library, "DxcCreateInstance")) : nullptr;
#else
    void* library = dlopen(path, RTLD_NOW);
    return library ? reinterpret_cast<DxcCreateInstanceProc>(dlsym(library, "DxcCreateInstance")) : nullptr;
#endif
}

std::string text_of(IDxcResult* result, DXC_OUT_KIND kind) {
    Held<IDxcBlobUtf8> blob;
    if (FAILED(result->GetOutput(kind, __uuidof(IDxcBlobUtf8), blob.place(), nullptr)) || !blob) {
        return {};
    }
    return std::string(blob->GetStringPointer(), blob->GetStringLength());
}

void compile(IDxcCompiler3* compiler, const harness::Job& job) {
    const std::string source = harness::contents(job[0]);
    const auto wide = [](const std::string& ascii) { return std::wstring(ascii.begin(), ascii.end()); };
    std::vector<std::wstring> owned{L"-T", wide(job[1]), L"-E", wide(job[2])};
    for (size_t i = 3; i < job.size(); i++) {
        owned.push_back(wide(job[i]));
    }
    std::vector<const wchar_t*> arguments;
    for (const auto& argument : owned) {
        arguments.push_back(argument.c_str());
    }
    const DxcBuffer buffer{source.data(), source.size(), DXC_CP_UTF8};
    Held<IDxcResult> result;
    HRESULT status = compiler->Compile(&buffer, arguments.data(), static_cast<UINT32>(arguments.size()), nullptr, __uuidof(IDxcResult),
                                       result.place());
    if (SUCCEEDED(status)) {
        result->GetStatus(&status);
    }
    const std::string said = result ? text_of(result.object, DXC_OUT_ERRORS) : std::string();
    if (FAILED(status)) {
        harness::write("error", said.empty() ? "no message" : said);
        return;
    }
    harness::write("warning", said);
    Held<IDxcBlob> object;
    if (FAILED(result->GetOutput(DXC_OUT_OBJECT, __uuidof(IDxcBlob), object.place(), nullptr)) || !object) {
        harness::write("error", "no object");
        return;
    }
    const DxcBuffer made{object->GetBufferPointer(), object->GetBufferSize(), 0};
    Held<IDxcResult> disassembled;
    if (FAILED(compiler->Disassemble(&made, __uuidof(IDxcResult), disassembled.place()))) {
        harness::write("error", "the object cannot be read back");
        return;
    }
    harness::write_bound(text_of(disassembled.object, DXC_OUT_DISASSEMBLY));
}

}  // namespace

int main(int count, char** arguments) {
    const auto create = count == 2 ? creator(arguments[1]) : nullptr;
    Held<IDxcCompiler3> compiler;
    if (!create || FAILED(create(CLSID_DxcCompiler, __uuidof(IDxcCompiler3), compiler.place()))) {
        std::cerr << "dxc: no compiler in " << (count == 2 ? arguments[1] : "no library") << '\n';
        return 2;
    }
    Held<IDxcVersionInfo> version;
    UINT32 major = 0, minor = 0;
    if (SUCCEEDED(compiler->QueryInterface(__uuidof(IDxcVersionInfo), version.place())) && SUCCEEDED(version->GetVersion(&major, &minor))) {
        std::cout << "# version " << major << '.' << minor << std::endl;
    }
    harness::serve([&](const harness::Job& job) { compile(compiler.object, job); });
    return 0;
}
