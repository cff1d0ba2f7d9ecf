/* version.h - the only place that states the version. */
#ifndef FL_UTIL_VERSION_H
#define FL_UTIL_VERSION_H

#define FL_VERSION "0.1.0"

#endif
