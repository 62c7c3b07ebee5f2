"""The crater track: finding and characterising impact craters on Mars."""
