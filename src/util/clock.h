/* clock.h - time that only goes forward. */
#ifndef FL_UTIL_CLOCK_H
#define FL_UTIL_CLOCK_H

double fl_now(void); /* seconds since some moment of this machine's */

#endif
