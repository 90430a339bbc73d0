// Hashes of what the dropout kernels of the active ISA compute.
#pragma once
#include <cstdint>
#include <map>
#include <string>

void add_dropout_hashes(std::map<std::string, uint64_t>& found);
