"""The track of land surface temperature: sharpen 1 km to 250 m with the help of NDVI."""
