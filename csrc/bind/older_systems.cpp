// What the headers of newer C and C++ libraries ask for and older libraries lack. Defined here, a library
// loads with glibc 2.28 and the libstdc++ of GCC 8, which manylinux_2_28 promises. exports.map hides the
// definitions.
#include <new>
#include <sstream>

#if defined(__GLIBCXX__)
extern "C" {
char __libc_single_threaded = 0;  // glibc 2.32: may libstdc++ count without atomics?
}

namespace std {
void __throw_bad_array_new_length() { throw bad_array_new_length(); }  // GCC 11
template class basic_stringstream<char>;  // GCC 9: constructors without arguments
template class basic_ostringstream<char>;
}  // namespace std
#endif
