// Compiles HLSL with FXC, Windows' own compiler up to shader model 5.1, and says where it put each buffer: `fxc.exe D3DCOMPILER_47.DLL < LIST`
// (harness.hpp). A program of Windows. Further arguments of a file are numbers: flags of D3DCompile, added up.

#include <windows.h>

#include <d3dcompiler.h>

#include "harness.hpp"

namespace {

using Compile = HRESULT(WINAPI*)(LPCVOID, SIZE_T, LPCSTR, const D3D_SHADER_MACRO*, ID3DInclude*, LPCSTR, LPCSTR, UINT, UINT, ID3DBlob**,
                                 ID3DBlob**);
using Disassemble = HRESULT(WINAPI*)(LPCVOID, SIZE_T, UINT, LPCSTR, ID3DBlob**);

// The text of a blob, which goes away.
std::string take(ID3DBlob* blob) {
    if (!blob) {
        return {};
    }
    const std::string text(static_cast<const char*>(blob->GetBufferPointer()), blob->GetBufferSize());
    blob->Release();
    return text;
}

}  // namespace

int main(int count, char** arguments) {
    const HMODULE library = count == 2 ? LoadLibraryA(arguments[1]) : nullptr;
    const auto compile = library ? reinterpret_cast<Compile>(GetProcAddress(library, "D3DCompile")) : nullptr;
    const auto disassemble = library ? reinterpret_cast<Disassemble>(GetProcAddress(library, "D3DDisassemble")) : nullptr;
    if (!compile || !disassemble) {
        std::cerr << "fxc: no compiler in " << (count == 2 ? arguments[1] : "no library") << '\n';
        return 2;
    }
    harness::serve([&](const harness::Job& job) {
        const std::string source = harness::contents(job[0]);
        UINT flags = 0;
        for (size_t i = 3; i < job.size(); i++) {
            flags |= std::stoul(job[i], nullptr, 0);
        }
        ID3DBlob *object = nullptr, *said = nullptr, *assembly = nullptr;
        const HRESULT status = compile(source.data(), source.size(), nullptr, nullptr, nullptr, job[2].c_str(), job[1].c_str(), flags, 0,
                                       &object, &said);
        const std::string message = take(said);
        if (FAILED(status)) {
            harness::write("error", message.empty() ? "no message" : message);
            return;
        }
        harness::write("warning", message);
        const std::string made = take(object);
        if (FAILED(disassemble(made.data(), made.size(), 0, nullptr, &assembly))) {
            harness::write("error", "the object cannot be read back");
            return;
        }
        harness::write_bound(take(assembly));
    });
    return 0;
}
