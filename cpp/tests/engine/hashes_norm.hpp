#pragma once
#include <cstdint>
#include <map>
#include <string>

// Adds the hashes of normalisation on the active ISA.
void add_norm_hashes(std::map<std::string, uint64_t>* found);
