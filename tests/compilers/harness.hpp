// What the harnesses of DXC and FXC share.
//
// Standard input has a line a file: PATH, PROFILE (cs_6_2), ENTRY, and further arguments of the compiler, between tabs. Of each file a harness
// writes `= PATH`, then `error`, `warning` or `bound` lines, each with its text after a tab, and an empty line. What is bound are the rows of the
// table of resources in the compiler's own disassembly: name, register, count.

#pragma once

#include <fstream>
#include <iostream>
#include <iterator>
#include <sstream>
#include <string>
#include <vector>

namespace harness {

using Job = std::vector<std::string>;

inline std::vector<std::string> split(const std::string& text, char at) {
    std::vector<std::string> parts;
    std::istringstream stream(text);
    for (std::string part; std::getline(stream, part, at);) {
        while (!part.empty() && (part.back() == '\r' || part.back() == '\0')) {
            part.pop_back();
        }
        parts.push_back(part);
    }
    return parts;
}

// A message of several lines as one a line of output.
inline void write(const char* kind, const std::string& text) {
    for (const auto& line : split(text, '\n')) {
        if (!line.empty()) {
            std::cout << kind << '\t' << line << '\n';
        }
    }
}

// "; params  cbuffer  NA  NA  CB0  cb0  1" of DXC, with // in place of ; of FXC: after a heading, up to what is no row.
inline void write_bound(const std::string& assembly) {
    bool inside = false, rows = false;
    for (const auto& line : split(assembly, '\n')) {
        std::istringstream words(line);
        const std::vector<std::string> row{std::istream_iterator<std::string>(words), {}};
        if (line.find("Resource Bindings:") != std::string::npos) {
            inside = true;
        } else if (inside && row.size() >= 7 && row[1][0] == '-') {
            rows = true;
        } else if (rows && row.size() < 7) {
            return;
        } else if (rows) {
            std::cout << "bound\t" << row[1] << ' ' << row[row.size() - 2] << ' ' << row.back() << '\n';
        }
    }
}

inline std::string contents(const std::string& path) {
    std::ifstream file(path, std::ios::binary);
    return {std::istreambuf_iterator<char>(file), {}};
}

// Each line of the input to `compile`.
template <typename Compile>
void serve(Compile compile) {
    for (std::string line; std::getline(std::cin, line);) {
        if (!line.empty() && line.back() == '\r') {
            line.pop_back();
        }
        const Job job = split(line, '\t');
        if (job.size() >= 3) {
            std::cout << "= " << job[0] << std::endl;
            compile(job);
            std::cout << std::endl;
        }
    }
}

}  // namespace harness
