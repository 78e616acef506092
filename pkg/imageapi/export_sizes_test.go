package imageapi

// SizeFor returns the size that is sent for an aspect ratio; "" for none.
func SizeFor(aspectRatio, modelName string) string {
	return Options{AspectRatio: aspectRatio}.size(modelName)
}
