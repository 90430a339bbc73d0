// Arguments that are no arrays, and words for messages.
#pragma once
#include <pybind11/pybind11.h>

#include <cstdint>
#include <string>

namespace gradstep {

std::string text(pybind11::handle object);     // str(object)
std::string shown(pybind11::handle object);    // repr(object), as much as a message holds
std::string kind_of(pybind11::handle object);  // the name of its type

// Raise TypeError for what is no number (bool is none), ValueError for what does not fit:
// `expected` says what would.
double check_number(pybind11::handle object, const char* argument, const char* expected);
int64_t check_integer(pybind11::handle object, const char* argument,
                      const char* expected = "an integer from -2**63 to 2**63 - 1");
uint64_t check_word(pybind11::handle object, const char* argument);
bool check_bool(pybind11::handle object, const char* argument);

// Finds what this file needs of Python, once, when the module is made.
void load_number_types();

}  // namespace gradstep
